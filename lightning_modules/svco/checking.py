"""Whether scores computed our way are those of the model's own forward: asked of every model that is loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from lightning_modules.common.digests import digest
from lightning_modules.common.machine import OF_THE_MACHINE
from lightning_modules.common.made import made
from lightning_modules.svco.models import VLM
from lightning_modules.svco.scores import WAYS, Row

# Raised when scores or readings are computed in another way.
VERSION = 2
QUESTION, ANSWERS = "what do you see ?", ("it is red .", "on the left side there are two blue stars .")
LIMIT = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def checked(vlm: VLM, *, cache_dir: str | None) -> VLM:
    """`vlm` with the first way of `scores.WAYS` that is right for it. Asked once a kind of model, and kept.

    ValueError naming the family and the difference when none is right.
    """
    if cache_dir is None:
        found = examine(vlm)
    else:
        key = {"version": VERSION, "transformers": transformers.__version__, "model": kind(vlm)}

        def make(place: Path) -> None:
            (place / "check.json").write_text(json.dumps(examine(vlm)))

        folder = made(folder=Path(cache_dir) / "svco" / "checked", key=key, make=make)
        found = json.loads((folder / "check.json").read_text())
    if found["way"] is None:
        raise ValueError(f"{vlm.family} is refused: {found['why']}.")
    vlm.way = found["way"]
    return vlm


def kind(vlm: VLM) -> str:
    """What the computation follows from, weights apart."""
    config = {k: v for k, v in vlm.core.config.to_dict().items() if k != "_name_or_path"}
    about = [config, vlm.reader.kind, vlm.reader.template, vlm.reader.processor.to_dict(), str(vlm.core.dtype)]
    # No config says as a dict by what kernels its part attends: a mask that one of them reads another leaves out.
    parts = [part for part in vlm.core.modules() if isinstance(part, transformers.PreTrainedModel)]
    about += [[part.config._attn_implementation for part in parts], vlm.device.type]
    return digest(json.loads(json.dumps([*about, vlm.adapted], default=str)))


def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]


@torch.no_grad()
def examine(vlm: VLM) -> dict[str, Any]:
    """{way, difference, why}: the first right way, or None with the reason; difference: relative, the largest."""
    limit = LIMIT.get(vlm.core.dtype, LIMIT[torch.bfloat16])
    shown: list[Image.Image | None] = [*pictures(), *([] if vlm.reader.pali else [None])]
    rows, own = [], []
    for image in shown:
        responses = [vlm.reader.response(answer)[0] for answer in ANSWERS]
        row = Row(*vlm.reader.prompt(QUESTION, image), responses)
        rows.append(row)
        for answer, response in zip(ANSWERS, responses, strict=True):
            ids, inputs = vlm.reader.conversation(QUESTION, answer, image)
            ours = torch.cat([row.prompt, response])
            if vlm.reader.max_response == 0 or len(response) < vlm.reader.max_response:
                if not torch.equal(ids, ours):
                    return _refused(
                        f"its processor reads a conversation as {_apart(ids, ours)}, prompt and answer apart"
                    )
            else:
                ids, inputs = ours, vlm.reader.followed(row.inputs, prompt=len(row.prompt), tokens=len(response))
            own.append(plain(vlm, ids, inputs, len(response)))
    expected = torch.stack(own)
    why = ""
    for way in WAYS:
        if way == "shared" and vlm.way != "shared":
            continue
        try:
            found = [WAYS[way](vlm, part) for part in (rows[:2], rows[2:]) if part]
        except OF_THE_MACHINE:  # which is not kept for the family
            raise
        except Exception as error:
            # Whatever a family's forward makes of what it was not written for; the next way asks less of it.
            why = f"{type(error).__name__}: {error}"
            continue
        difference = float(((torch.cat(found) - expected).abs() / expected.abs()).max())
        if difference <= limit:
            return {"way": way, "difference": difference, "why": ""}
        why = f"its scores differ from its own forward by {difference:.1e} of their size, at most {limit:g} is expected"
    return _refused(why)


def plain(vlm: VLM, ids: Tensor, inputs: dict[str, Tensor], tokens: int) -> Tensor:
    """Log-probability of the last `tokens` by the model's own forward of the whole conversation."""
    ids = ids[None].to(vlm.device)
    logits_TV = vlm.core(input_ids=ids, attention_mask=torch.ones_like(ids), **vlm.placed(inputs)).logits[0].float()
    logp_TV = logits_TV[-tokens - 1 : -1].log_softmax(-1)
    return logp_TV.gather(1, ids[0, -tokens:, None]).sum()


def _refused(why: str) -> dict[str, Any]:
    return {"way": None, "difference": None, "why": " ".join(why.split())[:300]}


def _apart(ids: Tensor, ours: Tensor) -> str:
    place = next((i for i, (a, b) in enumerate(zip(ids.tolist(), ours.tolist(), strict=False)) if a != b), -1)
    return f"other tokens ({len(ids)}) than ours ({len(ours)}), first apart at {place}"
