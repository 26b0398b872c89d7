"""LLaVA's kin, tiny and random: pictures are patches in the place of words, joined by a projector."""

from typing import Any

import transformers as tf

from tests.families.vlm_kit import (
    BLIND,
    CHATML,
    INST,
    SIDE,
    TEXT,
    VICUNA,
    clip,
    llama,
    model,
    siglip,
    template,
    tokenizer,
)


def llava(kind: str = "Llava", **text: Any) -> tuple[Any, Any]:
    words = tokenizer("<image>")
    image = words.convert_tokens_to_ids("<image>")
    parts = dict(vision_config=clip(), image_token_index=image, vision_feature_layer=-2)
    config = getattr(tf, f"{kind}Config")(text_config=llama(words, **text), **parts)
    pixels = tf.CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    processor = tf.LlavaProcessor(
        image_processor=pixels,
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template(*VICUNA, image="<image>\n"),
    )
    return model(config, getattr(tf, f"{kind}ForConditionalGeneration")), processor


def windowed() -> tuple[Any, Any]:
    """LLaVA with a decoder that sees only the last tokens, as LLaVA-1.6's Mistral."""
    net, processor = llava()
    words = processor.tokenizer
    text = tf.MistralConfig(vocab_size=len(words), sliding_window=16, **TEXT)
    config = tf.LlavaConfig(
        vision_config=clip(), text_config=text, image_token_index=net.config.image_token_id, vision_feature_layer=-2
    )
    return model(config, tf.LlavaForConditionalGeneration), processor


def vipllava() -> tuple[Any, Any]:
    net, processor = llava()
    config = tf.VipLlavaConfig(
        vision_config=clip(),
        text_config=llama(processor.tokenizer),
        image_token_index=net.config.image_token_id,
        vision_feature_layers=[-2, -1],
    )
    return model(config, tf.VipLlavaForConditionalGeneration), processor


def llava_next() -> tuple[Any, Any]:
    words = tokenizer("<image>")
    grid = [[32, 64], [64, 32], [64, 64]]
    config = tf.LlavaNextConfig(
        vision_config=clip(),
        text_config=llama(words),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
    )
    processor = tf.LlavaNextProcessor(
        image_processor=tf.LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=SIDE, image_grid_pinpoints=grid
        ),
        tokenizer=words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("[INST] {} [/INST]", " {}</s>", "", image="<image>\n"),
    )
    return model(config, tf.LlavaNextForConditionalGeneration), processor


def llava_onevision() -> tuple[Any, Any]:
    words = tokenizer("<image>", "<video>", "<|im_start|>", "<|im_end|>")
    grid = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = tf.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=tf.Qwen2Config(vocab_size=len(words), **TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    processor = tf.LlavaOnevisionProcessor(
        image_processor=tf.LlavaOnevisionImageProcessorPil(size=SIDE, image_grid_pinpoints=grid),
        tokenizer=words,
        video_processor=None,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template(*CHATML, image="<image>\n"),
    )
    return model(config, tf.LlavaOnevisionForConditionalGeneration), processor


def internvl() -> tuple[Any, Any]:
    marks = dict(start_image_token="<img>", end_image_token="</img>", video_token="<video>")
    marks |= dict(context_image_token="<IMG_CONTEXT>")
    words = tokenizer("<|im_start|>", "<|im_end|>", **marks)
    processor = tf.InternVLProcessor(
        image_processor=tf.GotOcr2ImageProcessorPil(size=SIDE, crop_to_patches=False),
        tokenizer=words,
        video_processor=None,
        image_seq_length=4,
        chat_template=template(*CHATML, image="<IMG_CONTEXT>\n"),
    )
    config = tf.InternVLConfig(
        vision_config=dict(**BLIND, image_size=[32, 32], patch_size=[8, 8]),
        text_config=dict(model_type="qwen2", vocab_size=len(words), **TEXT),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return model(config, tf.InternVLForConditionalGeneration), processor


def pixtral(kind: str = "Llava") -> tuple[Any, Any]:
    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]")
    # Its file imports torchvision itself.
    from transformers.models.pixtral.processing_pixtral import PixtralProcessor

    merge = 2 if kind == "Mistral3" else 1
    processor = PixtralProcessor(
        image_processor=tf.PixtralImageProcessorPil(size={"longest_edge": 32}, patch_size=8),
        tokenizer=words,
        patch_size=8,
        spatial_merge_size=merge,
        chat_template=template(*INST, image="[IMG]", begin="<s>"),
    )
    vision = tf.PixtralVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8
    )
    more = dict(spatial_merge_size=merge) if kind == "Mistral3" else dict(vision_feature_select_strategy="full")
    config = getattr(tf, f"{kind}Config")(
        vision_config=vision,
        text_config=tf.MistralConfig(vocab_size=len(words), sliding_window=None, head_dim=16, **TEXT),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        **more,
    )
    return model(config, getattr(tf, f"{kind}ForConditionalGeneration")), processor


def aya_vision() -> tuple[Any, Any]:
    marks = (
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE",
        "TILE_GLOBAL",
    )
    words = tokenizer(*marks, "<|im_start|>", "<|im_end|>")
    processor = tf.AyaVisionProcessor(
        image_processor=tf.GotOcr2ImageProcessorPil(size=SIDE, crop_to_patches=False),
        tokenizer=words,
        patch_size=8,
        img_size=32,
        downsample_factor=2,
        chat_template=template(*CHATML, image="<image>"),
    )
    config = tf.AyaVisionConfig(
        vision_config=siglip(vision_use_head=False),
        text_config=dict(model_type="cohere2", vocab_size=len(words), sliding_window=16, **TEXT),
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        vision_feature_layer=-1,
        alignment_intermediate_size=32,
    )
    return model(config, tf.AyaVisionForConditionalGeneration), processor
