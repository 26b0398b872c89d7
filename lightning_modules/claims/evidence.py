"""What MLflow knows about the claims: the values of every arm and seed, the effect, the verdict of each row."""

import math
import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from lightning_modules.claims import statistics as st
from lightning_modules.claims.claim import Claim, Trial

PAGE = 1000


class Row(NamedTuple):
    """A claim at one trial.

    values, runs: seed -> arm -> measurement and MLflow run id, of seeds whose every arm is measured. missing: the other
    seeds. finding: None without any seed. p_holm: corrected over the rows of the same paper, scale, data and series.
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

    @property
    def key(self) -> str:
        """`table/name@experiment`, with `+gpu` and `+confirmation` for that scale and series: unique among rows."""
        scale = "" if self.trial.scale == "small" else f"+{self.trial.scale}"
        series = "" if self.trial.series == "first" else f"+{self.trial.series}"
        return f"{self.name}@{self.trial.experiment}{scale}{series}"

    @property
    def seeds(self) -> list[int]:
        return list(self.values)

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
    found: dict[str, Run] = {}
    for experiment in client.search_experiments():
        token = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                "attributes.status = 'FINISHED'",
                max_results=PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found |= {run.data.tags["folder"]: run for run in page if "folder" in run.data.tags}
            token = page.token
            if not token:
                break
    return found


def rows(claims: Mapping[str, Claim], runs: Mapping[str, Run]) -> list[Row]:
    """A row for every trial, verdicts included; rows without any run are there too, and say so."""
    measured = [_measured(name, claim, trial, runs) for name, claim in claims.items() for trial in claim.trials]
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(measured):
        families[row.claim.paper, row.trial.scale, row.trial.data, row.trial.series].append(number)
    for members in families.values():
        found = [measured[n].finding for n in members]
        corrected = st.holm([math.nan if f is None else f.p_for for f in found])
        for number, p_holm in zip(members, corrected, strict=True):
            measured[number] = _judged(measured[number], p_holm)
    return measured


def _measured(name: str, claim: Claim, trial: Trial, runs: Mapping[str, Run]) -> Row:
    values: dict[int, dict[str, float]] = {}
    ids: dict[int, dict[str, str]] = {}
    for seed in claim.seeds_of(trial):
        own: dict[str, float] = {}
        own_ids: dict[str, str] = {}
        for arm, given in claim.arms.items():
            if given.value is not None:
                own[arm] = given.value
            elif (job := claim.job(trial, arm, seed)) and (run := runs.get(job.folder)):
                own[arm] = run.data.metrics.get(claim.metric_of(trial, arm), math.nan)
                own_ids[arm] = run.info.run_id
        if len(own) == len(claim.arms) and math.isfinite(claim.effect(own)):
            values[seed], ids[seed] = own, own_ids
    missing = tuple(seed for seed in claim.seeds_of(trial) if seed not in values)
    effects = [claim.effect(v) for v in values.values()]
    finding = st.find(effects, rule=claim.rule, margin=claim.margin) if effects else None
    return Row(name, claim, trial, values, ids, missing, finding, math.nan, st.INCONCLUSIVE)


def _judged(row: Row, p_holm: float) -> Row:
    if row.finding is None:
        return row
    claim = row.claim
    needed = claim.needed(row.trial)
    said = st.verdict(row.finding, p_holm=p_holm, rule=claim.rule, margin=claim.margin, needed=needed)
    return row._replace(p_holm=p_holm, verdict=said)
