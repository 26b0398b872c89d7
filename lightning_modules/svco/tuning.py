"""One fine-tuning inside a study, by the project's own module and datamodule, kept by content."""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from datamodules.scenes.datamodule import PairsDataModule, Source
from lightning_modules.common import metric_names as names
from lightning_modules.common.made import made
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.models import VLM
from lightning_modules.svco.module import SVCO
from lightning_modules.training.inner import inner_trainer, seeded
from lightning_modules.training.trained import save_weights, trained

TRAINED = "trained.safetensors"
# Raised when the same settings train something else.
VERSION = 1


class Settings(NamedTuple):
    """What every arm of a study has in common."""

    cache_dir: str
    source: Source
    steps: int
    global_batch: int
    seed: int
    pixels: int


def tuned(vlm: VLM, *, base: str, objective: Objective, lr: float, settings: Settings) -> tuple[VLM, dict[str, float]]:
    """(a copy of `vlm` trained with `objective`, its validation metrics); `base` is the fingerprint of `vlm`."""
    key = {
        "version": VERSION,
        "base": base,
        "objective": objective.description(),
        "lr": lr,
        "data": settings.source.description(),
        "steps": settings.steps,
        "batch": settings.global_batch,
        "seed": settings.seed,
        "pixels": settings.pixels,
        "lora": vlm.adapted,
    }
    copied = copy.deepcopy(vlm)
    folder = made(
        folder=Path(settings.cache_dir) / "svco" / "tuned",
        key=key,
        make=lambda place: _train(place, copied, objective=objective, lr=lr, settings=settings),
    )
    # Arms that were kept before weights were safetensors are not trained again.
    old = folder / "trained.pt"
    state = torch.load(old, weights_only=True) if old.is_file() else load_file(folder / TRAINED)
    copied.load_state_dict(state, strict=False)
    return copied.eval(), json.loads((folder / "validation.json").read_text())


def _train(place: Path, vlm: VLM, *, objective: Objective, lr: float, settings: Settings) -> None:
    with seeded(settings.seed):
        metrics = fit(vlm, objective=objective, lr=lr, settings=settings)
    save_weights(trained(vlm), place / TRAINED)
    (place / "validation.json").write_text(json.dumps(metrics, indent=1))


def fit(vlm: VLM, *, objective: Objective, lr: float, settings: Settings) -> dict[str, float]:
    """Train `vlm` in place; validation metrics of the last step (the rule of every arm: no best step is picked)."""
    data = PairsDataModule(
        source=settings.source, global_batch=settings.global_batch, pixels=settings.pixels, seed=settings.seed
    )
    optimizer: dict[str, Any] = dict(lr=lr, warmup_steps=max(1, settings.steps // 20), weight_decay=0.02)
    module = SVCO(model=vlm, objective=objective, optimizer=optimizer)
    trainer = inner_trainer(
        max_steps=settings.steps,
        limit_val_batches=None,
        val_check_interval=settings.steps,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, datamodule=data)
    return {n: float(trainer.callback_metrics[n]) for n in (names.VAL_PAIRED, names.VAL_PAIR_NLL)}
