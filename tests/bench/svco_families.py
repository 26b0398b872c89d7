"""Speed of families that go on from a prompt's cache (`make bench`): our step against one score at a time.

One score at a time is a forward of the whole conversation for each of the six scores of a pair, its picture through the
vision tower each time, and all of it again by a frozen copy as the reference. Sizes are LLaVA's in pictures (576 tokens),
words and length of answers, small in width, as in `tests.bench.svco`.
"""

import copy
import json
import statistics
import sys
import time
from typing import Any

import torch
import transformers as tf
from torch import Tensor

from datamodules.scenes.reader import Reader
from lightning_modules.svco.losses import SCORES
from lightning_modules.svco.models import VLM, prepared
from lightning_modules.svco.scores import pair_scores
from tests.bench.results import in_fresh_process, row
from tests.bench.svco import step
from tests.families.vlm_kit import CHATML, GEMMA, model, template, tokenizer
from tests.families.vlm_others import QWEN

WIDTH, WORDS, HEADS, LAYERS, PAIRS, ROUNDS, ANSWER = 256, 32_000, 8, 4, 2, 2, 24
TEXT = dict(
    vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=WIDTH // HEADS, max_position_embeddings=2048,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def qwen2_vl() -> tuple[Any, Any]:
    words = tokenizer(*QWEN)
    image, video, start, end = (words.convert_tokens_to_ids(mark) for mark in QWEN[:4])
    # 48 x 48 patches, of which four make a token.
    pixels = tf.Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, min_pixels=672**2, max_pixels=672**2)
    form = template(*CHATML, image="<|vision_start|><|image_pad|><|vision_end|>")
    # As nobody asks it for videos, it has no part for them, which would need torchvision.
    made = tf.Qwen2VLProcessor.__new__(tf.Qwen2VLProcessor)
    made.check_argument_for_proper_class = lambda *_: None
    made.__init__(image_processor=pixels, tokenizer=words, video_processor=None, chat_template=form)
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
    config = tf.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=dict(
            depth=LAYERS, embed_dim=WIDTH, hidden_size=WIDTH, num_heads=HEADS, mlp_ratio=4, patch_size=14
        ),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return model(config, tf.Qwen2VLForConditionalGeneration), made


def gemma3() -> tuple[Any, Any]:
    marks = dict(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    words = tokenizer("<start_of_turn>", "<end_of_turn>", **marks)
    made = tf.Gemma3Processor(
        image_processor=tf.Gemma3ImageProcessorPil(size=dict(height=336, width=336)),
        tokenizer=words,
        image_seq_length=576,
        chat_template=template(*GEMMA, image="<start_of_image>", begin="<s>"),
    )
    config = tf.Gemma3Config(
        vision_config=dict(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            image_size=336, patch_size=14, vision_use_head=False,
        ),
        text_config=dict(**TEXT, sliding_window=512, query_pre_attn_scalar=WIDTH // HEADS),
        mm_tokens_per_image=576,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
    )  # fmt: skip
    return model(config, tf.Gemma3ForConditionalGeneration), made


FAMILIES = {"qwen2_vl": qwen2_vl, "gemma3": gemma3}


def measured(family: str) -> dict[str, float]:
    """One score at a time / ours in the processor's seconds, in turns in this process, and how far losses are apart."""
    from datamodules.scenes.pairs import scene_pairs

    torch.set_num_threads(1)
    net, processor = FAMILIES[family]()
    with torch.no_grad():
        for weight in net.parameters():
            # Enlarged for tiny families, whose attention would be all but uniform.
            weight.mul_(0.25 if weight.dim() > 1 else 1.0)
    reader = Reader(processor=processor, max_response=ANSWER)
    vlm = prepared(net=net, reader=reader, lora_rank=0, freeze_vision=True)
    assert vlm.way == "continued"
    pairs = scene_pairs(count=PAIRS, seed=0, split="train", prior=0.0, describe=1.0)
    encoded = [reader.encode(pair, pair.images(336)) for pair in pairs]
    frozen = copy.deepcopy(vlm).requires_grad_(False)
    with torch.no_grad():
        cached = {name: value.clone() for name, value in pair_scores(vlm, encoded, SCORES).items()}
        # Policy and reference apart, so that the loss says something.
        vlm.core.get_output_embeddings().weight.mul_(1.1)

    def score(one: VLM, shown: Any) -> dict[str, Tensor]:
        return pair_scores(one, shown, SCORES)

    def again() -> dict[str, Tensor]:
        frozen.way = "separate"
        with torch.no_grad():
            return pair_scores(frozen, encoded, SCORES)

    seconds: dict[str, list[float]] = {"continued": [], "separate": []}
    losses = {}
    for number in range(1 + ROUNDS):
        for way, reference in (("continued", lambda: cached), ("separate", again)):
            vlm.way = way
            start = time.process_time()
            losses[way] = float(step(score, vlm, encoded, reference))
            if number:
                seconds[way].append(time.process_time() - start)
    ours, theirs = (statistics.median(seconds[way]) for way in ("continued", "separate"))
    return dict(faster=theirs / ours, apart=abs(losses["continued"] - losses["separate"]))


def rows() -> list[dict[str, Any]]:
    found = []
    for family in FAMILIES:
        print(f"{family}, {ROUNDS} rounds", file=sys.stderr)
        values = in_fresh_process("tests.bench.svco_families", family)
        size = f"{family} at LLaVA's size"
        peer = "one score at a time"
        found += [
            row(
                f"S-VCO step, one score at a time / ours, {size}",
                values["faster"],
                "x",
                goal=">= 4",
                peer=peer,
                missed="a gradient as large as the word embedding for each look-up (LOG.md)",
            ),
            row(f"loss, difference, {size}", values["apart"], "nats", goal="<= 1e-4"),
        ]
    return found


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
