"""Prompts of one task on another, many at once (section 4 of Su et al.).

Shape legend: K prompts, B examples, T positions, P prompt tokens, H hidden width, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common.bounds import Count
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.prompt.prompt_file import PromptFile


def stack(prompts: Sequence[PromptFile]) -> Tensor:
    """[K, P, H]; ValueError naming the prompts that are of another length, width or backbone than the first."""
    first = prompts[0]
    for prompt in prompts[1:]:
        here, there = tuple(prompt.weight.shape), tuple(first.weight.shape)
        if here != there:
            raise ValueError(
                f"prompts of one matrix differ in shape: {first.about['task']} ({first.path}) is {there}, "
                f"{prompt.about['task']} ({prompt.path}) is {here}; expected one length and width. Tune them with one "
                "prompt.length, or take them across models with experiment=prompt/project."
            )
        if prompt.about["backbone"] != first.about["backbone"]:
            raise ValueError(
                f"prompts of one matrix are of two backbones: {first.about['task']} of {first.about['backbone']}, "
                f"{prompt.about['task']} of {prompt.about['backbone']}; take one across with experiment=prompt/project."
            )
    return torch.stack([prompt.weight for prompt in prompts])


@torch.no_grad()
def stacked_scores(backbone: Backbone, batch: Batch, prompts_KPH: Tensor) -> Tensor:
    """Class scores [K, B, C] of every prompt on every example of `batch`, over the batch's own label words."""
    number, size = len(prompts_KPH), len(batch["input_ids"])
    wide = {n: batch[n].repeat(number, *[1] * (batch[n].dim() - 1)) for n in ("input_ids", "attention_mask", "ask")}
    scores = backbone.scores({**batch, **wide}, prompts_KPH.repeat_interleave(size, 0), lean=True)
    return scores.unflatten(0, (number, size))


@torch.no_grad()
def stacked_accuracy(
    backbone: Backbone, data: TaskDataModule, prompts_KPH: Tensor, *, split: str = "test", rows: Count = 84
) -> Tensor:
    """Accuracy [K] of each prompt on `split`; `rows` = prompts x examples of a forward, small enough for the cache."""
    examples = data.examples(split)
    # Texts of a length go together, so that little is padding.
    order = examples.rows.lengths.argsort(stable=True).tolist()
    size = max(1, min(len(examples), rows // len(prompts_KPH)))
    right = torch.zeros(len(prompts_KPH), device=backbone.device)
    for start in range(0, len(examples), size):
        batch = backbone.placed(examples.__getitems__(order[start : start + size]))
        for chunk in range(0, len(prompts_KPH), rows):
            part = slice(chunk, chunk + rows)
            scores_KBC = stacked_scores(backbone, batch, prompts_KPH[part])
            right[part] += (scores_KBC.argmax(-1) == batch["labels"]).sum(1)
    return right.cpu() / len(examples)
