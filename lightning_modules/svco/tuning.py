"""One fine-tuning inside a study, by the project's own module and datamodule, kept by content."""

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from safetensors.torch import load_file

from datamodules.scenes.datamodule import PairsDataModule, Source
from lightning_modules.common import metric_names as names
from lightning_modules.common.digests import digest
from lightning_modules.common.made import made, place_of
from lightning_modules.common.making import Thing
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.models import VLM
from lightning_modules.svco.module import SVCO
from lightning_modules.training.finite_loss import NonFiniteLossError
from lightning_modules.training.inner import inner_trainer, precision, seeded
from lightning_modules.training.trained import save_weights, trained

TRAINED = "trained.safetensors"
# Of an arm, on validation pairs.
MEASURED = (names.VAL_PAIRED, names.VAL_PAIR_NLL)
# Raised when the same settings train something else.
VERSION = 2


class Settings(NamedTuple):
    """What every arm of a study has in common.

    accumulate: forwards of one step; every pair counts as it would in one. handling: of `PairsDataModule`, what no number
    follows from, and no arm is known by.
    """

    cache_dir: str
    source: Source
    steps: int
    global_batch: int
    seed: int
    pixels: int
    accumulate: int = 1
    handling: Mapping[str, Any] = {}


class Arm(NamedTuple):
    """One objective at one learning rate from one base model.

    vlm: the base. base: its fingerprint. name: of the objective.
    """

    vlm: VLM
    base: str
    name: str
    objective: Objective
    lr: float
    settings: Settings

    def kept(self) -> dict[str, Any]:
        key = {
            "version": VERSION,
            "base": self.base,
            "objective": self.objective.description(),
            "lr": self.lr,
            "data": self.settings.source.description(),
            "steps": self.settings.steps,
            "batch": self.settings.global_batch,
            "seed": self.settings.seed,
            "pixels": self.settings.pixels,
            # Which weights learn, and what they are given of the pairs.
            "trained": digest(sorted(trained(self.vlm))),
            "reader": self.vlm.reader.content,
            # Sums in another order.
            **({} if self.settings.accumulate == 1 else {"accumulate": self.settings.accumulate}),
            **({} if precision() == "32-true" else {"precision": precision()}),
            # Once in float32, now in the precision of the steps.
            **({"reference": 2} if precision().endswith("-mixed") else {}),
        }
        return {"folder": Path(self.settings.cache_dir) / "svco" / "tuned", "key": key}

    def thing(self) -> Thing:
        return Thing(
            kind="arm",
            name=self.name,
            detail=f"lr {self.lr:g}",
            steps=self.settings.steps,
            why="an objective is compared at the learning rate that its validation pairs choose",
            place=place_of(**self.kept()),
            ask=self.tuned,
        )

    def tuned(self) -> tuple[VLM, dict[str, float]]:
        """(a copy of the base trained so, its validation metrics)."""
        copied = copy.deepcopy(self.vlm)

        def make(place: Path) -> None:
            with seeded(self.settings.seed):
                metrics = fit(copied, objective=self.objective, lr=self.lr, settings=self.settings)
            save_weights(trained(copied), place / TRAINED)
            (place / "validation.json").write_text(json.dumps(metrics, indent=1))

        folder = made(**self.kept(), make=make, thing=self.thing())
        copied.load_state_dict(load_file(folder / TRAINED), strict=False)
        return copied.eval(), json.loads((folder / "validation.json").read_text())


def fit(vlm: VLM, *, objective: Objective, lr: float, settings: Settings) -> dict[str, float]:
    """Train `vlm` in place; validation metrics of the last step (the rule of every arm: no best step is picked).

    They are no numbers where the training was stopped because its loss was none.
    """
    optimizer: dict[str, Any] = dict(lr=lr, warmup_steps=max(1, settings.steps // 20), weight_decay=0.02)
    trainer = inner_trainer(
        max_steps=settings.steps,
        limit_val_batches=None,
        accumulate_grad_batches=settings.accumulate,
        # In forwards.
        val_check_interval=settings.steps * settings.accumulate,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
    )
    module = SVCO(model=vlm, objective=objective, optimizer=optimizer)
    try:
        trainer.fit(module, datamodule=_pairs(settings))
    except NonFiniteLossError:
        return dict.fromkeys(MEASURED, math.nan)
    return _validated(trainer)


def untrained(vlm: VLM, settings: Settings) -> dict[str, float]:
    """What `fit` would measure before its first step."""
    trainer = inner_trainer(max_steps=1, limit_val_batches=None)
    with seeded(settings.seed):
        # Any objective will do that reads no reference: these metrics are of the model alone.
        module = SVCO(model=copy.deepcopy(vlm), objective=Objective(nll={"ww": 1.0}))
        trainer.validate(module, datamodule=_pairs(settings), verbose=False)
    return _validated(trainer)


def _pairs(settings: Settings) -> PairsDataModule:
    return PairsDataModule(
        source=settings.source,
        global_batch=settings.global_batch,
        pixels=settings.pixels,
        seed=settings.seed,
        cache_dir=settings.cache_dir,
        **settings.handling,
    )


def _validated(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(trainer.callback_metrics[name]) for name in MEASURED}
