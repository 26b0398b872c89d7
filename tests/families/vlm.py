"""Image-text-to-text families of transformers, tiny and random, with their own processors: as their own forward, or refused.

`python -m tests.families.vlm` goes through all and, with FACET_RESULTS=1, writes docs/results/families.json. Processors are
made by hand with transformers' PIL image processors, so neither torchvision nor a hub is needed. What is compared is in
`lightning_modules.svco.checking`: a whole conversation read by the processor and put through the plain forward.
"""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers as tf
from torch import nn
from transformers.models.smolvlm import processing_smolvlm
from transformers.processing_utils import ProcessorMixin

from datamodules.scenes.reader import Reader
from lightning_modules.svco.checking import examine, pictures
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import Row, scores_of
from tests import results

BLIND = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**BLIND, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0}
SIDE = {"height": 32, "width": 32}
ANSWER = "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}"


def template(user: str, answer: str, opening: str, *, image: str, begin: str = "") -> str:
    """Turns of text and pictures; `{}` in `user` and `answer` stands for what is said."""
    part = "{% if c['type'] == 'image' %}" + image + "{% else %}{{ c['text'] }}{% endif %}"
    parts = "{% for c in m['content'] %}" + part + "{% endfor %}"
    said = user.replace("{}", parts), answer.replace("{}", ANSWER)
    turns = f"{{% if m['role'] == 'assistant' %}}{said[1]}{{% else %}}{said[0]}{{% endif %}}"
    return (
        f"{begin}{{% for m in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


CHATML = ("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n{}<|im_end|>\n", "<|im_start|>assistant\n")
VICUNA = ("USER: {} ", "ASSISTANT: {} ", "ASSISTANT:")
IDEFICS = ("User:{}<end_of_utterance>\n", "Assistant: {}<end_of_utterance>\n", "Assistant:")
GEMMA = ("<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n{}<end_of_turn>\n", "<start_of_turn>model\n")
LLAMA = ("<|h|>user<|/h|>\n\n{}<|eot_id|>", "<|h|>assistant<|/h|>\n\n{}<|eot_id|>", "<|h|>assistant<|/h|>\n\n")
INST = ("[INST]{}[/INST]", "{}</s>", "")


def tokenizer(*special: str, **named: str) -> Any:
    """Bytes and the given special tokens; the first ones are padding, beginning and end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {
        word: n for n, word in enumerate(dict.fromkeys(["<pad>", "<s>", "</s>", *special, *named.values(), *letters]))
    }
    plain = Tokenizer(models.BPE(vocab=words, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", 1)]
    )
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=named
    )
    made.add_tokens([tf.AddedToken(mark, special=True, normalized=False) for mark in special], special_tokens=True)
    return made


def model(config: Any, kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = kind._from_config(config, attn_implementation="sdpa") if hasattr(kind, "_from_config") else kind(config)
    with torch.no_grad():
        for weight in net.parameters():
            # Large enough that attention is not all but uniform, nor a projection of pictures zero: faults must show.
            if weight.dim() >= 2 and not weight.any():
                weight.normal_(std=0.05)
            if weight.dim() >= 2:
                weight.mul_(4)
    return net.eval()


def clip(**more: Any) -> Any:
    return tf.CLIPVisionConfig(**BLIND, image_size=32, patch_size=8, **more)


def siglip(**more: Any) -> Any:
    return tf.SiglipVisionConfig(**BLIND, image_size=32, patch_size=8, **more)


def llama(words: Any, **more: Any) -> Any:
    return tf.LlamaConfig(vocab_size=len(words), **{**TEXT, **more})


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


def idefics3(kind: str = "Idefics3") -> tuple[Any, Any]:
    marks = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    words = tokenizer(*marks, *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)))
    pixels = getattr(tf, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    more = {"video_processor": SimpleNamespace(num_frames=1, fps=1, size={})} if kind == "SmolVLM" else {}
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


def instructblip() -> tuple[Any, Any]:
    processor = tf.InstructBlipProcessor(
        image_processor=tf.BlipImageProcessorPil(size=SIDE),
        tokenizer=tokenizer("<image>"),
        qformer_tokenizer=tokenizer("<image>"),
        num_query_tokens=2,
    )
    return nn.Identity(), processor


VISION = dict(depth=2, hidden_size=32, num_heads=2, intermediate_size=32, out_hidden_size=32)
VISION_25 = dict(window_size=32, fullatt_block_indexes=[1], **VISION)
VISION_3 = dict(deepstack_visual_indexes=[0, 1], num_position_embeddings=64, **VISION)
FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "aya_vision": aya_vision,
    "gemma3": gemma3,
    "idefics2": idefics2,
    "idefics3": idefics3,
    "instructblip": instructblip,
    "internvl": internvl,
    "llava": llava,
    "llava (Pixtral)": pixtral,
    "llava (sliding window)": windowed,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "mistral3": lambda: pixtral("Mistral3"),
    "mllama": mllama,
    "paligemma": paligemma,
    "qwen2_5_vl": lambda: qwen("Qwen2_5_VL", **VISION_25),
    "qwen2_vl": lambda: qwen("Qwen2VL", depth=2, embed_dim=32, num_heads=2, hidden_size=32, mlp_ratio=1),
    "qwen3_vl": lambda: qwen("Qwen3VL", **VISION_3),
    "smolvlm": lambda: idefics3("SmolVLM"),
    "vipllava": vipllava,
}
# One of each way: laid out in one sequence, cross-attention, 3D positions, a prefix that sees itself, and a refusal.
SAMPLE = {
    "llava": "shared",
    **dict.fromkeys(("llava_next", "mllama", "qwen2_vl", "paligemma", "gemma3"), "continued"),
    "instructblip": "refused",
}


def parts(family: str) -> tuple[Any, Any]:
    """(model, processor), made where torchvision and num2words, which only videos need, are not."""
    with (
        mock.patch.object(ProcessorMixin, "check_argument_for_proper_class", return_value=None),
        mock.patch.object(processing_smolvlm, "num2words", str),
    ):
        return FAMILIES[family]()


def built(family: str) -> VLM:
    net, processor = parts(family)
    return VLM(net=net, reader=Reader(processor=processor))


@torch.no_grad()
def sees(vlm: VLM) -> bool:
    """Whether another picture gives another score: where none counts, everything is right."""
    rows = [Row(*vlm.reader.prompt("?", picture), [vlm.reader.response("it is red .")[0]]) for picture in pictures()]
    one, other = scores_of(vlm, rows)
    return abs(float(one - other)) > 1e-4


def verdict(family: str) -> dict[str, Any]:
    """A row of families.json: `right` with the way it is computed, `refused` or `not built` with the reason."""
    row = {"system": "svco", "family": family, "class": "", "verdict": "not built", "difference": None, "why": ""}
    try:
        net, processor = parts(family)
    except Exception as error:
        return {**row, "why": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    row["class"] = type(net).__name__
    try:
        vlm = VLM(net=net, reader=Reader(processor=processor))
        found = examine(vlm)
        assert found["way"] is None or sees(vlm), family
    except ValueError as error:
        return {**row, "verdict": "refused", "why": str(error)}
    why = found["way"] or found["why"]
    return {**row, "verdict": "right" if found["way"] else "refused", "difference": found["difference"], "why": why}


def main() -> None:
    wrong = 0
    for family in sys.argv[1:] or FAMILIES:
        row = verdict(family)
        wrong += row["verdict"] == "not built"
        print(row["verdict"].ljust(10), family.ljust(24), row["difference"], row["why"], flush=True)
        results.note("families", key=("system", "family", "class"), command="make families", **row)
    print(f"{wrong} not built")


if __name__ == "__main__":
    main()
