"""Masked language modelling on the controlled language: how the embedded backbones come to be."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.common import metric_names as names
from lightning_modules.common.optimizer import adamw_with_schedule
from lightning_modules.common.say import say
from lightning_modules.training.inner import inner_trainer
from lightning_modules.training.one_mean import mean_counts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from datamodules.ordered import OrderedDataModule


# The run of `experiment=prompt/pretrain` and the automatic one take the same: their weights are the same.
TRAINER = {"gradient_clip_val": 1.0}
OPTIMIZER: dict[str, Any] = {"warmup_steps": 100, "weight_decay": 0.01, "betas": (0.9, 0.98)}
# All of a trainer that weights depend on.
MATTERS = (
    "max_steps",
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "world_size",
    "limit_train_batches",
    "overfit_batches",
)


# Of masked words: those of sentences, and labels.
KINDS = ("untagged", "tagged")


def counted(batch: dict[str, Tensor]) -> Tensor:
    """Masked words of each of `KINDS`, int64 [2]."""
    return torch.tensor([len(batch[kind]) for kind in KINDS])


class Pretrained(Protocol):
    """What is pretrained: `backbones.LanguageBackbone`."""

    steps: int
    lr: float

    def build(self) -> "PreTrainedModel": ...

    def tokenizer(self) -> Any: ...

    def data(self) -> "OrderedDataModule": ...

    def keep(self, trained: Path) -> Path: ...


class MaskedLM(pl.LightningModule):
    """Mean cross-entropy of masked words plus that of masked label words; beside it the labels' accuracy."""

    def __init__(self, *, backbone: Pretrained) -> None:
        super().__init__()
        self.spec, self.model = backbone, backbone.build()
        self.first = self.model.base_model.embeddings.padding_idx + 1

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the masked positions [M, V]."""
        mask = batch["attention_mask"]
        position = (mask.cumsum(1) - 1).clamp(min=0) + self.first + batch["offset"]
        hidden = self.model.base_model(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=position
        ).last_hidden_state
        return self.model.lm_head(hidden.flatten(0, 1)[batch["asked"]])

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._mean_counts = mean_counts(self, batch, batch_idx, counted=counted)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        losses = nn.functional.cross_entropy(self(batch), batch["words"], reduction="none")
        # A sentence has many words and one label: in one mean, naming latents would be learnt last.
        sums_2 = torch.stack([losses[batch[kind]].sum() for kind in KINDS])
        loss = (sums_2 / self._mean_counts.clamp(min=1e-9)).sum()
        self.log(names.TRAIN_LOSS, loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._measure("val", batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._measure("test", batch)

    def _measure(self, split: str, batch: dict[str, Tensor]) -> None:
        logits, words, tagged = self(batch), batch["words"], batch["tagged"]
        right = (logits.argmax(-1) == words).float()
        of_labels = right[tagged].sum() / max(1, len(tagged))
        # Lightning rounds the mean count of the ranks down.
        ranks = self.trainer.world_size
        loss = nn.functional.cross_entropy(logits, words)
        self.log(f"{split}/loss", loss, batch_size=len(words) * ranks, sync_dist=True)
        self.log(f"{split}/label_accuracy", of_labels, batch_size=len(tagged) * ranks, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_schedule(module=self.model, total_steps=steps, lr=self.spec.lr, **OPTIMIZER)

    def export(self, folder: Path, *, datamodule: "OrderedDataModule") -> Path:
        """A folder for AutoModelForMaskedLM and AutoTokenizer; kept for `LanguageBackbone.load` too, if it is the same."""
        self.save(folder)
        asked, own = automatic(self.spec), self.trainer
        other = [name for name in MATTERS if getattr(own, name) != getattr(asked, name)]
        if datamodule.fingerprint() != self.spec.data().fingerprint():
            other.append("data")
        if other or own.global_step != self.spec.steps:
            told = ", ".join(other) or f"{own.global_step} of {self.spec.steps} steps"
            say(
                f"Not kept as the backbone of later runs, which take it as backbone=hub backbone.name={folder}: {told}."
            )
        else:
            self.spec.keep(folder)
        return folder

    def save(self, folder: Path) -> None:
        self.model.cpu().save_pretrained(folder)
        self.spec.tokenizer().save_pretrained(folder)


def automatic(spec: Pretrained) -> pl.Trainer:
    """What trains `spec` when it is first needed: in float32, as one backbone serves runs of every precision."""
    return inner_trainer(max_steps=spec.steps, precision="32-true", **TRAINER)


def pretrain(spec: Pretrained, folder: Path) -> None:
    """Train `spec` from its seed and write it to `folder`."""
    with torch.random.fork_rng():
        module = MaskedLM(backbone=spec)
        automatic(spec).fit(module, datamodule=spec.data())
    module.save(folder)
