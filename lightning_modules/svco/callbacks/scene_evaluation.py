"""What the model says before training and after, of toy scenes or of the test pairs: metrics and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.common.bounds import Count, Whole
from lightning_modules.svco.evaluation import Found, dependency, judged, judges, judging
from lightning_modules.training.sharded import all_take_part


class SceneEvaluation(pl.Callback):
    """Logs `svco/...` at the end of the test split and, as `svco/base_...`, before the first step; writes figures.

    Rank 0 evaluates, the other ranks wait. Scenes are the same ones in every run: they have a seed of their own.
    judged_on: `scenes` or `pairs`, which are `pairs` of the test split, drawn by `seed`; `auto`: scenes where these are
    trained on, a user's own pairs where those are.
    """

    def __init__(
        self, *, folder: str, scenes_each: Count = 60, pairs: Count = 240, seed: Whole = 0, judged_on: str = "auto"
    ) -> None:
        self.folder, self.base = Path(folder), None
        self.settings: dict[str, Any] = dict(scenes_each=scenes_each, pairs=pairs, seed=seed, judged_on=judged_on)

    base: Found | None
    found: Found | None = None

    def pairs(self, source: Any) -> Sequence[Any]:
        """What `base` and `found` have scores of."""
        return judging(source, **{name: self.settings[name] for name in ("judged_on", "pairs", "seed")})

    def _evaluate(self, trainer: pl.Trainer, module: pl.LightningModule) -> Found:
        data = trainer.datamodule
        on_pairs = judges(data.source, self.settings["judged_on"]) == "pairs"
        settings = {**self.settings, "encoded": data.examples("test") if on_pairs else None}
        more = dict(source=data.source, pixels=data.pixels, batch=data.eval_batch)
        return module.asked(lambda: judged(module.vlm, **more, **settings))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of the base model; a resumed run has what its checkpoint says of it."""
        if self.base is None and (trainer.is_global_zero or all_take_part(pl_module)):
            self.base = self._evaluate(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base.plain()} if self.base else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base = Found.of(state_dict["base"]) if state_dict else None

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (trainer.is_global_zero or all_take_part(pl_module)):
            return
        from lightning_modules.common.style import save
        from lightning_modules.svco import figures as draw

        found = self._evaluate(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        base, self.found = self.base or found, found
        before = {name.replace("svco/", "svco/base_"): value for name, value in base.metrics.items()}
        pl_module.log_dict({**found.metrics, **before}, rank_zero_only=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        figures = {"log_probabilities": draw.conditions_figure(before=base.scores, after=found.scores)}
        if judges(trainer.datamodule.source, self.settings["judged_on"]) == "scenes":
            pixels = trainer.datamodule.pixels
            depends, gain = dependency(base, found)
            figures |= {
                "examples": draw.examples_figure(before=base.captions, after=found.captions, pixels=pixels),
                "gain_by_dependency": draw.dependency_figure(dependency=depends, gain=gain),
            }
        for name, figure in figures.items():
            save(figure, self.folder / f"{name}.png")
