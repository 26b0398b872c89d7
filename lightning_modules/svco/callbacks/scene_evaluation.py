"""What the model says about scenes before training and after: metrics and figures of the test split."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.common.bounds import Count, Whole
from lightning_modules.svco.evaluation import Found, evaluate


class SceneEvaluation(pl.Callback):
    """Logs `svco/...` at the end of the test split and, as `svco/base_...`, before the first step; writes figures.

    Rank 0 evaluates, the other ranks wait. Scenes are the same ones in every run: they have a seed of their own.
    """

    def __init__(self, *, folder: str, scenes_each: Count = 60, pairs: Count = 240, seed: Whole = 0) -> None:
        self.folder, self.scenes_each, self.pairs, self.seed = Path(folder), scenes_each, pairs, seed
        self.base: Found | None = None

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule) -> Found:
        from datamodules.scenes.pairs import scene_pairs

        pixels = trainer.datamodule.pixels
        pairs = scene_pairs(count=self.pairs, seed=self.seed, split="test", prior=0.0, describe=0.5)
        return evaluate(module.vlm, pairs=pairs, scenes_each=self.scenes_each, seed=self.seed, pixels=pixels)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of the base model; a resumed run has what its checkpoint says of it."""
        if self.base is None and trainer.is_global_zero:
            self.base = self._evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base.plain()} if self.base else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base = Found.of(state_dict["base"]) if state_dict else None

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        from lightning_modules.svco import figures as draw

        found = self._evaluate(trainer, pl_module)
        base = self.base or found
        before = {name.replace("svco/", "svco/base_"): value for name, value in base.metrics.items()}
        pl_module.log_dict({**found.metrics, **before}, rank_zero_only=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        pixels = trainer.datamodule.pixels
        figures = {
            "log_probabilities": draw.conditions_figure(before=base.scores, after=found.scores),
            "examples": draw.examples_figure(before=base.captions, after=found.captions, pixels=pixels),
            "gain_by_dependency": draw.dependency_figure(
                dependency={n: s - base.without[n] for n, s in base.with_image.items()},
                gain={n: s - base.with_image[n] for n, s in found.with_image.items()},
            ),
        }
        for name, figure in figures.items():
            figure.savefig(self.folder / f"{name}.png")
