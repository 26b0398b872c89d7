"""What MLflow knows about the claims: the values of every arm and seed, the effect, the verdict of each row."""

import itertools
import math
import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from lightning_modules.claims import power
from lightning_modules.claims import statistics as st
from lightning_modules.claims.claim import SERIES, Claim, Trial
from lightning_modules.claims.claim import jobs as every_job
from lightning_modules.claims.costs import Planned
from lightning_modules.common.choices import nearest
from lightning_modules.runtime.begun import by_value
from lightning_modules.runtime.foreign import all_runs, metrics_of
from lightning_modules.runtime.identity import identifies
from lightning_modules.runtime.journal import RUNNING
from lightning_modules.runtime.provenance import NOT_KEPT

# Runs of a scale that go on side by side, for which minutes are counted once: one on each of two cores. Of those on a GPU a
# run's minutes are its share already.
AT_ONCE = {"small": 2, "gpu": 1}


class Origin(NamedTuple):
    """Where a row's runs came from.

    commit: every commit that they were made at, 12 digits each. minutes: run id -> its length, on a GPU its share of the
    time in which several ran there. experiments: run id ->
    its experiment in MLflow; empty of runs that this MLflow does not have. fixed_in: the commit since which the claim is
    what it is, '' where that is not known. fixed_before_runs: whether every run was made at that commit or after it.
    """

    commit: str = ""
    machine: str = ""
    minutes: Mapping[str, float] = {}
    experiments: Mapping[str, str] = {}
    fixed_in: str = ""
    fixed_before_runs: bool | None = None


class Strength(NamedTuple):
    """What a verdict could have seen, and whether it hangs on the margin (`claims.power`).

    power: of the claim's test at its margin with the seeds it had, at `alpha`, what Holm leaves to one test of the
    family. seeds: that 80% would take, None where there is no spread or it is hopeless. sensitivity: factor of the
    margin -> verdict.
    """

    alpha: float
    power: float
    seeds: int | None
    sensitivity: Mapping[str, str]


class Row(NamedTuple):
    """A claim at one trial.

    values, runs: seed -> arm -> measurement and MLflow run id, of seeds whose every arm is measured. missing: the other
    seeds; numberless: what is wrong with the number of those of them that ran all the same. finding: None without any
    seed. p_holm, against_holm: of the finding's two tests, corrected over all rows that are declared for the same paper,
    scale, data and series (and the same seeds, in a later series), whether they have runs or not; nan until all seeds
    are there. The verdict looks at p_holm and at the other test as it is.
    """

    name: str
    claim: Claim
    trial: Trial
    values: dict[int, dict[str, float]]
    runs: dict[int, dict[str, str]]
    missing: tuple[int, ...]
    finding: st.Finding | None
    p_holm: float
    verdict: str
    against_holm: float = math.nan
    numberless: Mapping[int, str] = {}
    origin: Origin = Origin()
    strength: Strength | None = None
    planned: Planned | None = None

    @property
    def key(self) -> str:
        """`table/name@experiment`, with `+gpu`, `+confirmation`, `+later` for scale and series: unique among rows."""
        scale = "" if self.trial.scale == "small" else f"+{self.trial.scale}"
        series = "" if self.trial.series == "first" else f"+{self.trial.series}"
        return f"{self.name}@{self.trial.experiment}{scale}{series}"

    @property
    def seeds(self) -> list[int]:
        return list(self.values)

    @property
    def effects(self) -> list[float]:
        return [self.claim.effect(values) for values in self.values.values()]

    @property
    def minutes(self) -> float:
        """On two cores, a run on each, or on one GPU; what rows share is in each of them."""
        return sum(self.origin.minutes.values()) / AT_ONCE[self.trial.scale]

    def arm(self, name: str) -> list[float]:
        return [values[name] for values in self.values.values()]

    def commands(self) -> list[str]:
        """One sweep an arm that is a run, over the seeds of the verdict."""
        wanted = self.claim.seeds_of(self.trial)
        jobs = [job for arm in self.claim.arms if (job := self.claim.job(self.trial, arm, wanted[0]))]
        seeds = ",".join(map(str, wanted))
        return list(dict.fromkeys(f"python main.py -m {shlex.join(job.overrides)} seed={seeds}" for job in jobs))


def finished(client: MlflowClient) -> dict[str, Run]:
    """Every finished run by the name of its run directory (the tag `folder`); the newest where there are several."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    found = all_runs(client, everywhere, "attributes.status = 'FINISHED'")
    return {run.data.tags["folder"]: run for run in found if "folder" in run.data.tags}


def minutes(run: Run) -> float:
    """That it ran, without the pauses of one that was stopped and went on; of a run of before this was kept, with them."""
    if RUNNING in run.data.tags:
        return float(run.data.tags[RUNNING]) / 60
    return (run.info.end_time - run.info.start_time) / 60_000


def shares(runs: Collection[Run]) -> dict[str, float]:
    """Run id -> minutes of the machine that it shared: of a minute in which three ran, each has a third."""
    found = {run.info.run_id: 0.0 for run in runs}
    spans = [(run.info.run_id, run.info.start_time, run.info.end_time) for run in runs]
    moments = sorted({moment for _, start, end in spans for moment in (start, end)})
    for begin, end in itertools.pairwise(moments):
        going = [name for name, start, stop in spans if start <= begin and end <= stop]
        for name in going:
            found[name] += (end - begin) / 60_000 / len(going)
    return {run.info.run_id: min(found[run.info.run_id], minutes(run)) for run in runs}


def rows(claims: Mapping[str, Claim], runs: Mapping[str, Run], kept: Mapping[str, Row] | None = None) -> list[Row]:
    """A row for every trial, verdicts included; rows without any run are there too, and say so.

    kept: rows of an earlier table by their key (`kept.load`); one with as many seeds as `runs` have stands in their place.
    """
    on_gpu = {job.folder for job in every_job(claims.values(), scale="gpu", series=None)}
    lengths = {run.info.run_id: minutes(run) for run in runs.values()}
    lengths |= shares([run for folder, run in runs.items() if folder in on_gpu])
    measured = [
        _measured(name, claim, trial, runs, lengths) for name, claim in claims.items() for trial in claim.trials
    ]
    for number, row in enumerate(measured):
        old = (kept or {}).get(row.key)
        if old and old.values and len(old.values) >= len(row.values):
            measured[number] = old
    families: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(measured):
        families[_family(row)].append(number)
    for members in families.values():
        whole = [measured[n].finding if not measured[n].missing else None for n in members]
        p_for, p_against = ([getattr(found, side, math.nan) for found in whole] for side in ("p_for", "p_against"))
        corrected = zip(members, st.holm(p_for), st.holm(p_against), strict=True)
        for place, (number, p_holm, against_holm) in enumerate(corrected):
            row = measured[number]._replace(p_holm=p_holm, against_holm=against_holm)
            measured[number] = _judged(row, others=p_for[:place] + p_for[place + 1 :])
    return measured


def _family(row: Row) -> tuple[Any, ...]:
    """Rows that Holm corrects together, run or not: of a later series those declared together, which have the same seeds.

    Whatever is declared after them has others, and would judge them anew.
    """
    series = row.trial.series
    together = tuple(row.claim.seeds_of(row.trial)) if series == "later" else ()
    return row.claim.paper, row.trial.scale, row.trial.data, series, together


def settled_later(found: Sequence[Row]) -> set[str]:
    """Keys of open rows whose claim a later series decided, at the same scale and on the same kind of data."""

    def place(row: Row) -> tuple[str, str, str]:
        return row.name, row.trial.scale, row.trial.data

    last = {
        place(row): SERIES.index(row.trial.series)
        for row in sorted(found, key=lambda row: SERIES.index(row.trial.series))
        if row.verdict != st.INCONCLUSIVE
    }
    return {
        row.key
        for row in found
        if row.finding and row.verdict == st.INCONCLUSIVE and SERIES.index(row.trial.series) < last.get(place(row), 0)
    }


def judgeable(
    name: str, claim: Claim, trial: Trial, values: dict[int, dict[str, float]], runs: dict[int, dict[str, str]]
) -> Row:
    """A row of measurements by seed and arm, not judged yet; seeds without a finite effect are missing."""
    whole = {seed: own for seed, own in values.items() if math.isfinite(claim.effect(own))}
    effects = [claim.effect(own) for own in whole.values()]
    return Row(
        name,
        claim,
        trial,
        values=whole,
        runs={seed: runs[seed] for seed in whole},
        missing=tuple(seed for seed in claim.seeds_of(trial) if seed not in whole),
        finding=st.find(effects, rule=claim.rule, margin=claim.margin) if effects else None,
        p_holm=math.nan,
        verdict=st.INCONCLUSIVE,
    )


def _measured(name: str, claim: Claim, trial: Trial, runs: Mapping[str, Run], lengths: Mapping[str, float]) -> Row:
    """ValueError where the runs of an arm are not of one config."""
    values: dict[int, dict[str, float]] = {}
    ids: dict[int, dict[str, str]] = {}
    found: dict[str, Run] = {}
    by_arm: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for seed in claim.seeds_of(trial):
        own: dict[str, float] = {}
        own_ids: dict[str, str] = {}
        for arm, given in claim.arms.items():
            if given.value is not None:
                own[arm] = given.value
            elif (job := claim.job(trial, arm, seed)) and (run := runs.get(job.folder)):
                own[arm] = metrics_of(run).get(claim.metric_of(trial, arm), math.nan)
                own_ids[arm] = run.info.run_id
                found[run.info.run_id] = run
                by_arm[arm][f"s{seed}"] = run.data.params
        if len(own) == len(claim.arms):
            values[seed], ids[seed] = own, own_ids
    for arm, params in by_arm.items():
        if told := _unlike(params):
            raise ValueError(f"the runs of {name} at {trial.experiment} are not of one config: {arm} has {told}.")
    row = judgeable(name, claim, trial, values, ids)
    used = sorted({run for by_arm in row.runs.values() for run in by_arm.values()})
    return row._replace(
        numberless={
            seed: _wrong_number(claim, trial, own, {arm: found[run] for arm, run in ids[seed].items()})
            for seed, own in values.items()
            if seed not in row.values
        },
        origin=Origin(
            commit=", ".join(sorted({found[run].data.tags.get("git.commit", "unknown")[:12] for run in used})),
            machine="; ".join(sorted({found[run].data.tags.get("machine", NOT_KEPT) for run in used})),
            minutes={run: lengths[run] for run in used},
            experiments={run: found[run].info.experiment_id for run in used},
        ),
    )


def _unlike(params: Mapping[str, Mapping[str, str]]) -> str:
    """Parameters in which runs that should differ in their seeds alone differ; of those that all have.

    Which there are follows from the version of the project, and seeds are run weeks apart; folders are a machine's own.
    """
    everywhere = set.intersection(*(set(own) for own in params.values()))
    keys = [key for key in sorted(everywhere) if identifies(key) and not key.endswith("seed")]
    kinds = {key: {own[key] for own in params.values() if not own[key].startswith("/")} for key in keys}
    return by_value([key for key in keys if len(kinds[key]) > 1], params)


def _wrong_number(claim: Claim, trial: Trial, own: Mapping[str, float], runs: Mapping[str, Run]) -> str:
    """Why a seed that ran has no effect, by the first arm that says it."""
    for arm, value in own.items():
        metric = claim.metric_of(trial, arm)
        if arm in runs and metric not in runs[arm].data.metrics:
            return f"{arm} has no {metric}{nearest(metric, list(runs[arm].data.metrics))}"
        if not math.isfinite(value) or (claim.transform == "log" and value <= 0):
            return f"{arm}'s {metric} is {value:g}"
    return "its effect is not finite"


def _judged(row: Row, *, others: list[float]) -> Row:
    if row.finding is None:
        return row
    rule, margin, needed, effects = row.claim.rule, row.claim.margin, row.claim.needed(row.trial), row.effects
    said = st.verdict(row.finding, p_holm=row.p_holm, rule=rule, margin=margin, needed=needed)
    spread, alpha = power.spread(effects), power.level(1 + len(others))
    strength = Strength(
        alpha,
        power.power(spread, len(effects), rule=rule, margin=margin, alpha=alpha),
        power.seeds_for(spread, rule=rule, margin=margin, alpha=alpha),
        power.sensitivity(effects, rule=rule, margin=margin, needed=needed, others=others),
    )
    return row._replace(verdict=said, strength=strength)
