"""Families that look at a picture in their own way, tiny and random: resamplers, 3D positions, cross-attention, prefixes."""

from typing import Any

import torch
import transformers as tf
from torch import nn

from tests.families.vlm_kit import BLIND, CHATML, GEMMA, IDEFICS, LLAMA, SIDE, TEXT, model, siglip, template, tokenizer


class NoVideos(dict):
    """In the place of a processor's part for videos, which needs torchvision: settings, saved as an empty mapping."""

    num_frames, fps = 1, 1
    size: dict[str, int] = {}


def idefics3(kind: str = "Idefics3") -> tuple[Any, Any]:
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    words = tokenizer(*marks, *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)))
    pixels = getattr(tf, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    more = {"video_processor": NoVideos()} if kind == "SmolVLM" else {}
    processor = getattr(tf, f"{kind}Processor")(
        image_processor=pixels,
        tokenizer=words,
        image_seq_len=4,
        chat_template=template(*IDEFICS, image="<image>", begin="<s>"),
        **more,
    )
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    vision = dict(**BLIND, image_size=32, patch_size=8)
    text = dict(model_type="llama", vocab_size=len(processor.tokenizer), **TEXT)
    config = getattr(tf, f"{kind}Config")(
        vision_config=vision, text_config=text, image_token_id=image, scale_factor=2, pad_token_id=0
    )
    return model(config, getattr(tf, f"{kind}ForConditionalGeneration")), processor


def idefics2() -> tuple[Any, Any]:
    words = tokenizer("<fake_token_around_image>", "<image>", "<end_of_utterance>")
    processor = tf.Idefics2Processor(
        image_processor=tf.Idefics2ImageProcessorPil(
            size={"shortest_edge": 32, "longest_edge": 32}, do_image_splitting=False
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=template(*IDEFICS, image="<image>", begin="<s>"),
    )
    config = tf.Idefics2Config(
        vision_config=dict(**BLIND, image_size=32, patch_size=8),
        perceiver_config=dict(
            hidden_size=32,
            resampler_n_latents=4,
            resampler_depth=1,
            resampler_n_heads=2,
            num_key_value_heads=2,
            resampler_head_dim=16,
        ),
        text_config=dict(model_type="mistral", vocab_size=len(processor.tokenizer), **TEXT),
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    return model(config, tf.Idefics2ForConditionalGeneration), processor


QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>")


def qwen(kind: str, processor: str = "", **vision: Any) -> tuple[Any, Any]:
    words = tokenizer(*QWEN)
    ids = {n: words.convert_tokens_to_ids(t) for n, t in zip(("image", "video", "start", "end"), QWEN, strict=False)}
    pixels = tf.Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=256, max_pixels=4096)
    made = getattr(tf, processor or f"{kind}Processor")(
        image_processor=pixels,
        tokenizer=words,
        video_processor=None,
        chat_template=template(*CHATML, image="<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    config = getattr(tf, f"{kind}Config")(
        text_config=dict(vocab_size=len(words), rope_parameters=rope, head_dim=16, **TEXT),
        vision_config=dict(patch_size=8, spatial_merge_size=2, **vision),
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
    )
    return model(config, getattr(tf, f"{kind}ForConditionalGeneration")), made


def gemma3() -> tuple[Any, Any]:
    marks = dict(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    words = tokenizer("<start_of_turn>", "<end_of_turn>", **marks)
    processor = tf.Gemma3Processor(
        image_processor=tf.Gemma3ImageProcessorPil(size=SIDE),
        tokenizer=words,
        image_seq_length=4,
        chat_template=template(*GEMMA, image="<start_of_image>", begin="<s>"),
    )
    config = tf.Gemma3Config(
        vision_config=siglip(vision_use_head=False),
        text_config=dict(
            vocab_size=len(words),
            head_dim=16,
            sliding_window=16,
            query_pre_attn_scalar=16,
            **TEXT,
            layer_types=["sliding_attention", "full_attention"],
        ),
        mm_tokens_per_image=4,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
    )
    return model(config, tf.Gemma3ForConditionalGeneration), processor


def paligemma() -> tuple[Any, Any]:
    pixels = tf.SiglipImageProcessorPil(size=SIDE)
    pixels.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(image_processor=pixels, tokenizer=tokenizer("<image>"))
    words = processor.tokenizer
    config = tf.PaliGemmaConfig(
        vision_config=siglip(projection_dim=32, vision_use_head=False),
        text_config=dict(model_type="gemma", vocab_size=len(words), head_dim=16, **TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    return model(config, tf.PaliGemmaForConditionalGeneration), processor


def mllama() -> tuple[Any, Any]:
    words = tokenizer("<|image|>", "<|python_tag|>", "<|h|>", "<|/h|>", "<|eot_id|>")
    processor = tf.MllamaProcessor(
        image_processor=tf.MllamaImageProcessorPil(size=SIDE, max_image_tiles=2),
        tokenizer=words,
        chat_template=template(*LLAMA, image="<|image|>", begin="<s>"),
    )
    config = tf.MllamaConfig(
        vision_config=dict(
            hidden_size=32,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
            max_num_tiles=2,
            vision_output_dim=64,
            intermediate_layers_indices=[0],
            supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
        ),
        text_config=dict(vocab_size=len(words), cross_attention_layers=[1], **TEXT, eos_token_id=2, bos_token_id=1),
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
    )
    net = model(config, tf.MllamaForConditionalGeneration)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            # Zero at first: the pictures would not count.
            if "attn_gate" in name or "mlp_gate" in name:
                weight.fill_(0.5)
    return net, processor


def instructblip() -> tuple[Any, Any]:
    processor = tf.InstructBlipProcessor(
        image_processor=tf.BlipImageProcessorPil(size=SIDE),
        tokenizer=tokenizer("<image>"),
        qformer_tokenizer=tokenizer("<image>"),
        num_query_tokens=2,
    )
    return nn.Identity(), processor
