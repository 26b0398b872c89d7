"""Image-text-to-text families of transformers, tiny and random, with their own processors: as their own forward, or refused.

`python -m tests.families.vlm` goes through all and, with FACET_RESULTS=1, writes docs/results/families.json. Processors are
made by hand with transformers' PIL image processors, so neither torchvision nor a hub is needed. What is compared is in
`lightning_modules.svco.checking`: a whole conversation read by the processor and put through the plain forward. With a
family that is right the documented commands are then run whole (`tests.families.commands`).
"""

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from transformers.models.smolvlm import processing_smolvlm
from transformers.processing_utils import ProcessorMixin

from datamodules.scenes.reader import Reader
from lightning_modules.svco.checking import examine, pictures
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import Row, scores_of
from tests import results
from tests.families.commands import whole
from tests.families.vlm_llava import (
    aya_vision,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    pixtral,
    vipllava,
    windowed,
)
from tests.families.vlm_others import gemma3, idefics2, idefics3, instructblip, mllama, paligemma, qwen

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


def main() -> int:
    missing = broken = 0
    for family in sys.argv[1:] or FAMILIES:
        row = verdict(family)
        if row["verdict"] == "right":
            row["commands"] = whole(family)
        missing += row["verdict"] == "not built"
        broken += row.get("commands", "whole") != "whole"
        told = row["difference"], row["why"], row.get("commands", "")
        print(row["verdict"].ljust(10), family.ljust(24), *told, flush=True)
        results.note("families", key=("system", "family", "class"), command="make families", **row)
    print(f"{missing} not built, of {broken} a command is not whole")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
