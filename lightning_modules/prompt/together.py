"""Soft prompts of one backbone tuned together: a step's forward holds the batches of all of them.

A prompt of 32 short texts fills no GPU. Each prompt has its own parameter, batches and loss, and the loss is their sum, so
a prompt's gradient is what it would be alone; AdamW keeps its state by element. What differs is rounding: another batch size
and more padding take the kernels other ways.

Shape legend: K prompts, B examples of one, T positions, H hidden width, C classes.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common import metric_names as names
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.training.inner import logs_are_read


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
    """Class scores [B, C] of every batch under its prompt [P, H], from one forward; of `label_words` from one each.

    Batches come as the data make them: one joined batch goes to the device, in place of many small ones.
    """
    if any("label_words" in batch for batch in batches):
        # Their words stand in the texts, so each batch is asked in its own way.
        return [backbone.scores(b, p, lean=True) for b, p in zip(batches, prompts, strict=True)]
    sizes = [len(batch["ask"]) for batch in batches]
    prompts_KPH = torch.stack(list(prompts))
    each_B = torch.tensor([k for k, size in enumerate(sizes) for _ in range(size)])
    joined = backbone.placed({**merged(batches, pad=pad), "each": each_B})
    answers = backbone.answer(joined, prompts_KPH[joined["each"]], lean=True)
    scores: list[Tensor] = []
    # Prompts of one task follow each other, and their words are the same.
    for _, group in groupby(zip(batches, answers.split(sizes), strict=True), key=lambda each: id(_words(each[0]))):
        own = list(group)
        found = backbone.of_classes(torch.cat([answer for _, answer in own]), backbone.placed(own[0][0]))
        scores += found.split([len(answer) for _, answer in own])
    return scores


def _words(batch: Batch) -> Any:
    """What classes are scored by, the same object in all batches of one task's data."""
    return batch.get("label_ids", batch.get("phrase_ids"))


def mean_losses(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy [K] of each batch's scores [B, C]; batches of as many classes in one go."""
    losses_K = scores[0].new_zeros(len(scores), dtype=torch.float32)
    for classes in dict.fromkeys(found.shape[1] for found in scores):
        own = [k for k, found in enumerate(scores) if found.shape[1] == classes]
        share_KN = torch.zeros(len(scores), sum(len(labels[k]) for k in own))
        begin = 0
        for k in own:
            share_KN[k, begin : (begin := begin + len(labels[k]))] = 1 / len(labels[k])
        answers = torch.cat([labels[k] for k in own]).to(losses_K.device)
        loss_N = nn.functional.cross_entropy(torch.cat([scores[k] for k in own]), answers, reduction="none")
        losses_K = losses_K + (share_KN.to(loss_N) * loss_N).sum(1)
    return losses_K


class TunedTogether(pl.LightningModule):
    """Trains the soft prompts of `modules`, all on one backbone and with the same settings, each on its own of `datas`.

    What it is fitted on are the numbers of the steps: it gets each prompt's batch of a step by itself.
    """

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
        losses_K = mean_losses(scores, [batch["labels"] for batch in batches])
        if logs_are_read(self):
            self.log(names.TRAIN_LOSS, losses_K.detach().mean())
        return {"loss": losses_K.sum(), "shown": losses_K.detach().mean()}

    def configure_optimizers(self) -> dict[str, Any]:
        parameters = [p for module in self.each for p in module.trained().values()]
        return self.first.optimized(parameters, steps=int(self.trainer.estimated_stepping_batches))

    def on_fit_start(self) -> None:
        self.first.on_fit_start()

    def on_fit_end(self) -> None:
        self.first.on_fit_end()
