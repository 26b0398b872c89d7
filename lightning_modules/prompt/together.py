"""Soft prompts of one backbone tuned together: a step's forward holds the batches of all of them.

A prompt of 32 short texts fills no GPU. Each prompt has its own parameter, batches and loss, and the loss is their sum, so
a prompt's gradient is what it would be alone; AdamW keeps its state by element. What differs is rounding: another batch size
and more padding take the kernels other ways.

Shape legend: K prompts, B examples of one, T positions, H hidden width, C classes.
"""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common import metric_names as names
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.prompt.module import PromptTuning


def merged(batches: Sequence[Batch], *, pad: int) -> Batch:
    """One batch of all examples, padded to the longest with `pad`. Every batch keeps the prompt's place at one position."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)

    def joined(name: str, value: int) -> Tensor:
        rows = [nn.functional.pad(b[name], (0, longest - b[name].shape[1]), value=value) for b in batches]
        return torch.cat(rows)

    (at,) = {batch["prompt_at"] for batch in batches}
    return {
        "input_ids": joined("input_ids", pad),
        "attention_mask": joined("attention_mask", 0),
        "ask": torch.cat([batch["ask"] for batch in batches]),
        "prompt_at": at,
        # Which way the backbone answers; the words themselves are each batch's own.
        **({"phrase_ids": batches[0]["phrase_ids"]} if "phrase_ids" in batches[0] else {}),
    }


def scores_of_each(
    backbone: Backbone, batches: Sequence[Batch], prompts: Sequence[Tensor], *, pad: int
) -> list[Tensor]:
    """Class scores [B, C] of every batch under its prompt [P, H], from one forward; of `label_words` from one each."""
    batches = [backbone.placed(batch) for batch in batches]
    if any("label_words" in batch for batch in batches):
        # Their words stand in the texts, so each batch is asked in its own way.
        return [backbone.scores(b, p, lean=True) for b, p in zip(batches, prompts, strict=True)]
    sizes = [len(batch["ask"]) for batch in batches]
    prompts_BPH = torch.cat([p.expand(size, *p.shape) for p, size in zip(prompts, sizes, strict=True)])
    answers = backbone.answer(merged(batches, pad=pad), prompts_BPH, lean=True).split(sizes)
    return [backbone.of_classes(answer, batch) for answer, batch in zip(answers, batches, strict=True)]


class TunedTogether(pl.LightningModule):
    """Trains the soft prompts of `modules`, all on one backbone and with the same settings, each on its own of `datas`."""

    def __init__(self, modules: Sequence[PromptTuning], datas: Sequence[TaskDataModule]) -> None:
        super().__init__()
        self.each, self.datas = list(modules), list(datas)
        # Lightning places what stands here: the backbone is the same in all.
        self.tuners = nn.ModuleList(module.tuner for module in modules)
        self.first, self.pad = modules[0], datas[0].pad

    def training_step(self, step: int, batch_idx: int) -> dict[str, Tensor]:
        """The sum of the prompts' losses; `shown`: their mean."""
        batches = [data.train_batch(step) for data in self.datas]
        prompts = [prompt for module in self.each if (prompt := module.tuner.prompt()) is not None]
        scores = scores_of_each(self.first.backbone, batches, prompts, pad=self.pad)
        losses_K = torch.stack(
            [
                nn.functional.cross_entropy(scores_BC, batch["labels"].to(scores_BC.device))
                for scores_BC, batch in zip(scores, batches, strict=True)
            ]
        )
        self.log(names.TRAIN_LOSS, losses_K.detach().mean())
        return {"loss": losses_K.sum(), "shown": losses_K.detach().mean()}

    def steps(self, number: int) -> DataLoader[Any]:
        """The numbers of the steps: `training_step` gets each prompt's batch of that step by itself."""
        return DataLoader(range(number), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> dict[str, Any]:
        parameters = [p for module in self.each for p in module.trained().values()]
        return self.first.optimized(parameters, steps=int(self.trainer.estimated_stepping_batches))

    def on_fit_start(self) -> None:
        self.first.on_fit_start()

    def on_fit_end(self) -> None:
        self.first.on_fit_end()
