"""A tiny untrained LLaVA and a few pairs of scenes."""

import torch

from datamodules.scenes.pairs import scene_pairs
from datamodules.scenes.reader import Reader
from lightning_modules.svco.embedded import build_llava, build_processor
from lightning_modules.svco.models import prepared


def tiny_vlm(*, lora_rank=0, freeze_vision=True, double=False, max_response=128, seed=0, more=()):
    processor = build_processor(more=more)
    torch.manual_seed(seed)
    net = build_llava(
        words=len(processor.tokenizer),
        image_token=processor.tokenizer.convert_tokens_to_ids("<image>"),
        width=32,
        vision_layers=2,
        layers=2,
        heads=2,
    )
    net = net.double() if double else net
    # Large enough weights that attention is not all but uniform: a fault in a mask must show.
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() >= 2:
                weight.mul_(5)
    reader = Reader(processor=processor, max_response=max_response)
    return prepared(net=net.eval(), reader=reader, lora_rank=lora_rank, freeze_vision=freeze_vision)


def toy_pairs(count=6, seed=0):
    return scene_pairs(count=count, seed=seed, split="train", prior=0.5, describe=0.5)


def encode(vlm, pairs, double=False):
    found = [vlm.reader.encode(pair, pair.images(48)) for pair in pairs]
    if double:
        for pair in found:
            for inputs in (pair.inputs_w, pair.inputs_l):
                inputs["pixel_values"] = inputs["pixel_values"].double()
    return found
