"""The LightningModule of prompt and adapter tuning: a frozen backbone, a tuner, cross-entropy over label words."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_modules.common import metric_names as names
from lightning_modules.common.bounds import Positive, Share, Weight, Whole
from lightning_modules.common.optimizer import warm_up_and_cosine
from lightning_modules.common.say import say
from lightning_modules.prompt import peft_folder
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.prompt.prompt_file import NAME, PromptFile
from lightning_modules.prompt.tuners import FullFineTuning, SoftPrompt, Tuner, count
from lightning_modules.training.inner import logs_are_read
from lightning_modules.training.trained import SavesWhatTrains, look_for_unused, save_weights

ADAPTER = "adapter.safetensors"


class BackboneSpec(Protocol):
    def load(self) -> Backbone: ...


class PromptTuning(SavesWhatTrains):
    """Cross-entropy over the classes' scores (Lester et al. 2021; section 2.2 of Wang et al.).

    Only the tuner's parameters train and are saved. The backbone's weights are hashed before and after: a run that
    changed them fails.

    Args:
        backbone: named, loaded here.
        tuner: what trains; `attach`ed here.
        lr, warmup_steps, min_lr_ratio, weight_decay: of AdamW.
    """

    decided_by = "tuner or backbone"

    def __init__(
        self,
        *,
        backbone: BackboneSpec,
        tuner: Tuner,
        lr: Positive = 1e-3,
        warmup_steps: Whole = 0,
        min_lr_ratio: Share = 1.0,
        weight_decay: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.backbone, self.tuner = backbone.load(), tuner
        # `before` names the backbone; `frozen` is what it is once the trainer's precision has cast it.
        self.before = self.frozen = self.backbone.fingerprint()
        tuner.attach(self.backbone)
        self.lr, self.weight_decay = lr, weight_decay
        self.warmup_steps, self.min_lr_ratio = warmup_steps, min_lr_ratio

    def trained(self) -> dict[str, nn.Parameter]:
        return self.tuner.trained(self.backbone)

    def setup(self, stage: str) -> None:
        # Before a checkpoint is restored: whoever goes on, or loads what was trained, scores by the same phrases.
        # A datamodule of a user's own may have no `common`: phrases are embedded with the first batch then.
        self.backbone.embed_phrases(getattr(getattr(self.trainer, "datamodule", None), "common", {}))
        if not isinstance(self.tuner, SoftPrompt):
            # Others train what no answer reads, too: a pooler, attention to an encoder that is not there.
            look_for_unused(self.trainer)

    def forward(self, batch: Batch) -> Tensor:
        """Class scores [B, C]."""
        return self.backbone.scores(batch, self.tuner.prompt())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # Tuners that reach into the model must see all positions; a prompt only needs the answer.
        lean = isinstance(self.tuner, SoftPrompt)
        scores_BC = self.backbone.scores(batch, self.tuner.prompt(), lean=lean)
        loss = nn.functional.cross_entropy(scores_BC, batch["labels"])
        if not loss.requires_grad:
            raise ValueError(
                f"tuner: the answer of {type(self.backbone.model).__name__} depends on nothing that "
                f"{type(self.tuner).__name__} trains ({', '.join(list(self.trained())[:3])}); expected another tuner, "
                "such as soft_prompt."
            )
        if logs_are_read(self):
            right = (scores_BC.detach().argmax(1) == batch["labels"]).float().mean()
            self.log_dict({names.TRAIN_LOSS: loss.detach(), names.TRAIN_ACCURACY: right}, prog_bar=True)
        return loss

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Lightning looks through all that a batch holds, label words too, several times a step.
        return {n: v.to(device) if isinstance(v, Tensor) else v for n, v in batch.items()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure("test", batch)

    def _measure(self, split: str, batch: Batch) -> None:
        scores_BC = self(batch)
        size = len(batch["labels"])
        loss = nn.functional.cross_entropy(scores_BC, batch["labels"])
        self.log(f"{split}/loss", loss, batch_size=size, sync_dist=True)
        right = (scores_BC.argmax(1) == batch["labels"]).float().mean()
        self.log(f"{split}/accuracy", right, batch_size=size, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimized(list(self.trained().values()), steps=int(self.trainer.estimated_stepping_batches))

    def optimized(self, parameters: list[nn.Parameter], *, steps: int) -> dict[str, Any]:
        """AdamW and its schedule over `steps`, as Lightning takes them."""
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return warm_up_and_cosine(
            optimizer, total_steps=steps, warmup_steps=self.warmup_steps, min_lr_ratio=self.min_lr_ratio
        )

    def on_fit_start(self) -> None:
        self.frozen = self.backbone.fingerprint()

    def on_fit_end(self) -> None:
        self.check_frozen()

    def check_frozen(self) -> None:
        """AssertionError when a frozen backbone is no longer what it was."""
        if not isinstance(self.tuner, FullFineTuning):
            after = self.backbone.fingerprint()
            assert after == self.frozen, f"the frozen backbone changed: {self.frozen} before, {after} after"

    def count_parameters(self) -> dict[str, int]:
        return {"total": count(dict(self.backbone.named_parameters())), "trained": count(self.trained())}

    def prompt_file(self, datamodule: Any) -> PromptFile:
        """The prompt with what it is a prompt of."""
        prompt = self.tuner.prompt()
        assert prompt is not None
        about = {
            "backbone": self.before,
            "width": self.backbone.width,
            "task": datamodule.task.name,
            "skill": datamodule.task.skill,
            "classes": list(datamodule.task.classes),
            "template": datamodule.template.pattern,
            "verbaliser": datamodule.verbaliser,
            "data": datamodule.task.fingerprint(),
        }
        return PromptFile(prompt.detach(), about)

    def export(self, folder: Path, *, datamodule: Any, tell: bool = True) -> Path:
        """prompt.safetensors; for a tuner without a prompt adapter.safetensors, all that it trained.

        What PEFT can express also as a folder of PEFT's, peft/. tell: whether it says what PEFT cannot.
        """
        prompt = self.tuner.prompt()
        if prompt is None:
            save_weights(self.trained(), folder / ADAPTER)
            why = self.tuner.save_for_peft(folder / peft_folder.FOLDER, self.backbone)
            if why and tell:
                say(f"No adapter for PEFT: {why}.")
            return folder
        saved = self.prompt_file(datamodule).save(folder / NAME)
        kind, parts = self.backbone.kind, datamodule.template.parts()
        if why := peft_folder.why_not(kind, parts):
            if tell:
                say(f"No prompt for PEFT: {why}.")
        else:
            peft_folder.save_prompt(prompt, folder / peft_folder.FOLDER, kind=kind, model=self.backbone.model)
        return saved

    @torch.no_grad()
    def load_export(self, folder: Path) -> None:
        """Take what `export` of the same tuner wrote; a backbone that answers by phrases has embedded them before."""
        if isinstance(self.tuner, SoftPrompt):
            found = PromptFile.load(folder)
            found.check(self.backbone, length=self.tuner.length)
            self.tuner.weight.copy_(found.weight)
            return
        from safetensors.torch import load_file

        saved, own = load_file(folder / ADAPTER), self.trained()
        if {n: v.shape for n, v in saved.items()} != {n: v.shape for n, v in own.items()}:
            raise ValueError(f"{folder / ADAPTER}: of another tuner or backbone than {self.tuner.description()}.")
        for name, value in saved.items():
            own[name].copy_(value)
