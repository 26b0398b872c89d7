"""What studies of objectives on one base model share: the arms, their learning rates, and what they are judged by.

Rules fixed beforehand: every arm trains equally many steps on the same pairs in the same order; test scenes are read once.
An objective's learning rate is chosen on validation pairs, the smaller one when two tie. By `paired` it is the one with the
highest paired accuracy. By `kept` it is that among the rates whose fitting answers cost at most `KEPT` nats a token more
than the untrained model's, half of them whole descriptions; where no rate keeps that, the one whose answers cost least.
One that diverged is never chosen.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from datamodules.order import micro_batches_per_forward
from datamodules.scenes.datamodule import Source
from datamodules.scenes.encodings import GIGABYTES, encoded
from lightning_modules.common import metric_names as names
from lightning_modules.common.bounds import Count, Positive, Weight, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import digest
from lightning_modules.common.making import Thing
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.evaluation import Found, judged, judges, judging
from lightning_modules.svco.models import VLM
from lightning_modules.svco.tuning import Arm, Settings, untrained
from lightning_modules.training.inner import device

CHOSEN_BY = ("paired", "kept")
# A perplexity 5% above the base's.
KEPT = math.log(1.05)


class Trained(NamedTuple):
    """An arm at one learning rate, and what its training measured on validation pairs.

    tried: of one that was chosen, a row for every rate.
    """

    lr: float
    vlm: VLM
    val: dict[str, float]
    tried: Sequence[dict[str, Any]] = ()

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.val[names.VAL_PAIR_NLL])


def tried_row(name: str, lr: float, val: dict[str, float]) -> dict[str, Any]:
    """Of an objective at one learning rate what the choice goes by."""
    return {
        "objective": name,
        "lr": f"{lr:.0e}",
        "val paired": val[names.VAL_PAIRED],
        "val nll": val[names.VAL_PAIR_NLL],
    }


class Arms:
    """What the studies share: the base, the arms with their learning rates chosen, and their evaluation.

    Args:
        model: the base `VLM`. objectives: `Objective` by name. learning_rates: tried for each objective.
        source: of the pairs. steps, global_batch, accumulate: of each arm. scenes_each, test_pairs: of the evaluation.
        eval_batch, keep, workers, encoded_gb: as of `PairsDataModule`.
        seed: of pairs, order and training.
        judged_on: toy `scenes` or test `pairs` of the source; `auto`: scenes where these are trained on.
        chosen_by: validation's paired accuracy alone, `paired`, or that of the rates at which likelihood is kept, `kept`.
    """

    def __init__(
        self,
        *,
        model: VLM,
        objectives: dict[str, Any],
        learning_rates: list[Positive],
        source: Source,
        cache_dir: str,
        steps: Count = 120,
        global_batch: Count = 16,
        pixels: Count = 48,
        scenes_each: Count = 60,
        test_pairs: Count = 240,
        seed: Whole = 1,
        judged_on: str = "auto",
        chosen_by: str = "paired",
        accumulate: Count = 1,
        eval_batch: Count = 32,
        keep: bool = True,
        workers: Whole = 0,
        encoded_gb: Weight = GIGABYTES,
    ) -> None:
        check_choice("study.chosen_by", chosen_by, CHOSEN_BY)
        micro_batches_per_forward(global_batch=global_batch, micro_batch=1, accumulate=accumulate, ranks=1)
        self.chosen_by = chosen_by
        self.vlm, self.objectives, self.learning_rates = model, objectives, sorted(learning_rates)
        handling = dict(eval_batch=eval_batch, keep=keep, workers=workers, encoded_gb=encoded_gb)
        self.settings = Settings(cache_dir, source, steps, global_batch, seed, pixels, accumulate, handling)
        self.scenes_each, self.test_pairs, self.judged_on = scenes_each, test_pairs, judged_on

    @property
    def on_scenes(self) -> bool:
        return judges(self.settings.source, self.judged_on) == "scenes"

    @cached_property
    def base_digest(self) -> str:
        return self.vlm.fingerprint()

    @cached_property
    def base_val(self) -> dict[str, float]:
        """What validation measures of the base."""
        return untrained(self.vlm, self.settings)

    def rank(self, val: dict[str, float]) -> tuple[bool, float]:
        """What a learning rate is chosen by, the larger the better."""
        if self.chosen_by == "kept" and val[names.VAL_PAIR_NLL] > self.base_val[names.VAL_PAIR_NLL] + KEPT:
            return False, -val[names.VAL_PAIR_NLL]
        return True, val[names.VAL_PAIRED]

    def prepare(self) -> None:
        """Nothing to fetch: the base is made with the model."""

    def fingerprint(self) -> dict[str, str]:
        return {"data": digest(self.settings.source.description()), "base": self.base_digest}

    def needs(self) -> list[Thing]:
        """An arm per objective and learning rate."""
        return self.arms(self.settings)

    def arms(self, settings: Settings) -> list[Thing]:
        return [
            Arm(self.vlm, self.base_digest, name, objective, lr, settings).thing()
            for name, objective in self.objectives.items()
            for lr in self.learning_rates
        ]

    def test_set(self) -> Sequence[Any]:
        """The pairs that arms are judged by."""
        return judging(self.settings.source, judged_on=self.judged_on, pairs=self.test_pairs)

    def measured(self, vlm: VLM) -> Found:
        source, pixels, handling = self.settings.source, self.settings.pixels, self.settings.handling
        kept = dict(keep=False, cache_dir=self.settings.cache_dir, gigabytes=handling["encoded_gb"])
        read = None if self.on_scenes else encoded(source, "test", vlm.reader, pixels=pixels, **kept)
        return judged(
            vlm.to(device()),
            source=source,
            encoded=read,
            batch=handling["eval_batch"],
            judged_on=self.judged_on,
            scenes_each=self.scenes_each,
            pairs=self.test_pairs,
            pixels=pixels,
        )

    def base_measured(self, desk: Desk) -> Found:
        """Of the base; says what it and the arms are judged on."""
        found = self.measured(self.vlm)
        where = "toy scenes" if self.on_scenes else f"{len(found.categories)} test pairs of {self.settings.source.name}"
        desk.say(f"Judged on {where} (study.judged_on={self.judged_on}).")
        return found

    def each_rate(self, name: str, desk: Desk, *, source: Source | None = None) -> Iterator[Trained]:
        """The arm at every learning rate, ascending; `source`: of other pairs than the study's."""
        settings = self.settings._replace(source=source) if source else self.settings
        for lr in self.learning_rates:
            vlm, val = Arm(self.vlm, self.base_digest, name, self.objectives[name], lr, settings).tuned()
            arm = Trained(lr, vlm, val)
            found = "diverged" if arm.diverged else f"validation paired accuracy {val[names.VAL_PAIRED]:.3f}"
            desk.say(f"{name} at {lr:g}: {found}")
            yield arm

    def chosen(self, name: str, desk: Desk, *, source: Source | None = None) -> Trained:
        """The arm at its best learning rate. ValueError where it diverged at each of them."""
        tried: list[dict[str, Any]] = []
        best: Trained | None = None
        for arm in self.each_rate(name, desk, source=source):
            tried.append(tried_row(name, arm.lr, arm.val))
            # Rates ascend: the smaller of two that tie stays.
            if not arm.diverged and (best is None or self.rank(arm.val) > self.rank(best.val)):
                best = arm
        if best is None:
            raise ValueError(
                f"{name} diverged at every one of study.learning_rates, {', '.join(row['lr'] for row in tried)}: what "
                "validation measures of it is no number. Expected a smaller one; the other arms are kept."
            )
        return best._replace(tried=tried)
