"""A claim: what is compared, in which unit, by which rule. Everything a verdict depends on stands in it."""

import math
import shlex
from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

from annotated_types import Gt, MinLen
from pydantic import BaseModel, ConfigDict, model_validator

from lightning_modules.common.choices import nearest
from lightning_modules.runtime import identity

SYSTEMS = ("moe", "prompt", "transfer", "svco")
SERIES = ("first", "confirmation", "later")
DATA = ("synthetic", "real")
Text = Annotated[str, MinLen(1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Strict):
    """One setting: `run` are overrides beside the trial's, `metric` is another than the claim's.

    `value` is a constant in the place of a measurement (a speed-up is compared with 1).
    """

    run: tuple[str, ...] = ()
    metric: str | None = None
    value: float | None = None


class Trial(Strict):
    """Where a claim is tried: an experiment of conf/, with overrides, at a scale, on a kind of data.

    A `confirmation` asks again, on seeds of its own, what the first series left open; its runs count for it alone. What is
    asked after a paper's confirmations, again or for the first time, is `later`: beside them Holm would judge those anew.
    Later claims that are declared together have the same seeds, and are a family of their own.
    `metrics` are those of arms that this experiment names otherwise, as the top layer of a deeper model.
    """

    experiment: Text
    scale: Literal["small", "gpu"]
    data: Literal["synthetic", "real"]
    run: tuple[str, ...] = ()
    metrics: dict[str, str] = {}
    series: Literal["first", "confirmation", "later"] = "first"
    seeds: Annotated[tuple[int, ...], MinLen(1)] | None = None


class Job(NamedTuple):
    """One run: `python main.py` with `overrides` and the seed."""

    overrides: tuple[str, ...]
    seed: int

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        # Interpolations are resolved in it, so a run with `language.seed=${seed}` is called by its seed.
        return identity.folder((o.replace("${seed}", str(self.seed)) for o in self.overrides), self.seed)

    @property
    def command(self) -> str:
        return shlex.join(["python", "main.py", *self.overrides, f"seed={self.seed}"])


class Claim(Strict):
    """One entry of a table in `claims/tables`.

    The effect of a seed is the sum over `contrast` of weight x (logarithm of, if `transform` is log) the arm's metric;
    signs are such that the paper's direction is positive.

    Args:
        statement: the claim in one sentence. paper, place, number: who says it, where, with which figures.
        metric: of a run, unless an arm names its own. unit: of the effect, for readers.
        pairing: what runs of a seed have in common. seeds: of the verdict, at least five.
        rule: `superiority` (effect > 0 and at least the margin), `noninferiority` (effect > -margin) or `equivalence`
            (|effect| < margin). margin: in the effect's unit, above 0.
        trials: where it is tried; each is a row of the table.
    """

    system: Literal["moe", "prompt", "transfer", "svco"]
    statement: Text
    paper: Text
    place: Text
    number: Text
    metric: Text
    transform: Literal["none", "log"]
    unit: Text
    arms: dict[str, Arm]
    contrast: Annotated[dict[str, float], MinLen(1)]
    pairing: Text
    rule: Literal["superiority", "noninferiority", "equivalence"]
    margin: Annotated[float, Gt(0)]
    seeds: Annotated[tuple[int, ...], MinLen(5)]
    trials: Annotated[tuple[Trial, ...], MinLen(1)]

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        for name in self.contrast:
            if name not in self.arms:
                raise ValueError(f"contrast.{name} is no arm{nearest(name, list(self.arms))}")
        if unused := [name for name in self.arms if name not in self.contrast]:
            raise ValueError(f"arms.{unused[0]} has no weight in contrast")
        if not any(self.contrast.values()):
            raise ValueError("contrast has only zeros")
        for where, seeds in (("seeds", self.seeds), *(("trials.seeds", self.seeds_of(t)) for t in self.trials)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{where} has one twice: {list(seeds)}")
        places = [(t.experiment, t.scale, t.series) for t in self.trials]
        if twice := [place for place in places if places.count(place) > 1]:
            raise ValueError(
                f"trials has two at {', '.join(twice[0])}; expected one of each experiment, scale and series"
            )
        for trial in self.trials:
            if wrong := [name for name in trial.metrics if name not in self.arms]:
                raise ValueError(f"trials.metrics.{wrong[0]} is no arm{nearest(wrong[0], list(self.arms))}")
            if known := self._seen(trial) & set(self.seeds_of(trial)):
                kind = "a confirmation" if trial.series == "confirmation" else "a later series"
                raise ValueError(
                    f"{kind} takes seeds of its own; found {sorted(known)}, which were looked at before it"
                )
        return self

    def _seen(self, trial: Trial) -> set[int]:
        """Seeds of the series before the trial's, which a claim of a later series alone has not."""
        place = SERIES.index(trial.series)
        before = [t for t in self.trials if SERIES.index(t.series) < place]
        own = set(self.seeds) if before or trial.series == "confirmation" else set()
        return own.union(*(self.seeds_of(t) for t in before))

    def seeds_of(self, trial: Trial) -> tuple[int, ...]:
        return trial.seeds or self.seeds

    def metric_of(self, trial: Trial, arm: str) -> str:
        return trial.metrics.get(arm) or self.arms[arm].metric or self.metric

    def needed(self, trial: Trial) -> int:
        """Seeds that a verdict wants: all of the trial's, and no fewer than the claim's."""
        return max(len(self.seeds), len(self.seeds_of(trial)))

    def job(self, trial: Trial, arm: str, seed: int) -> Job | None:
        """The run that measures an arm; None for a constant."""
        given = self.arms[arm]
        if given.value is not None:
            return None
        return Job((f"experiment={trial.experiment}", *trial.run, *given.run), seed)

    def effect(self, values: dict[str, float]) -> float:
        """The contrast of one seed's values by arm; nan where a logarithm has nothing to work on."""
        if self.transform == "log":
            values = {name: math.log(v) if v > 0 else math.nan for name, v in values.items()}
        # `sum` of floats rounds otherwise from Python 3.12 on.
        return math.fsum(weight * values[name] for name, weight in self.contrast.items())


def jobs(claims: Iterable[Claim], *, scale: str, series: str | None = "first", data: Iterable[str] = DATA) -> list[Job]:
    """Every run that the claims need for a series at a scale, each once, seed by seed so that a broken one is balanced.

    series: None for all of them.
    """
    wanted = [
        (place, job)
        for claim in claims
        for trial in claim.trials
        if trial.scale == scale and series in (None, trial.series) and trial.data in data
        for place, seed in enumerate(claim.seeds_of(trial))
        for arm in claim.arms
        if (job := claim.job(trial, arm, seed))
    ]
    return list(dict.fromkeys(job for _, job in sorted(wanted, key=lambda w: w[0])))
