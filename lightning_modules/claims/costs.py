"""`make claims PLAN=1`: what the runs of the claims would take on this machine, by plan, kept beside the claims.

A run costs its training, of a few timed steps; the analysis of a study comes on top. A model that it would
have to make first (a backbone, a base model) is counted in. One seed of every setting is planned: seeds take equally long.
"""

import json
import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_modules.claims.claim import Claim, Job, Trial
from lightning_modules.common.files import write_rows
from lightning_modules.runtime import provenance
from lightning_modules.runtime.sweep import PROJECT

KEPT = PROJECT / "docs" / "results" / "claims_costs.json"


class Planned(NamedTuple):
    """Minutes of training of all runs of a row, one after the other, on `machine`."""

    minutes: float
    machine: str


def machine() -> str:
    """The GPU where there is one, else cores, memory and processor."""
    import torch

    if torch.cuda.is_available():
        return f"1 x {torch.cuda.get_device_name(0)}, torch {torch.__version__}"
    return provenance.machine()


def load(path: Path = KEPT) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.is_file() else []


def seconds(job: Job, extra: Sequence[str] = ()) -> float:
    """Of one run; ValueError where its device is not here."""
    from lightning_modules.runtime import config, devices, plan, preflight

    config.register_resolvers(project=PROJECT)
    arguments = [*job.overrides, f"seed={job.seed}", "plan=true", *extra]
    preflight.take(arguments)
    ((_, cfg),) = preflight.every_job(arguments)
    if devices.missing(cfg):
        raise ValueError(
            f"{shlex.join(job.overrides)}: trainer.accelerator is {cfg.trainer.accelerator}, which this machine has not; "
            "expected the machine that is asked about."
        )
    return float(plan.plan(cfg, set())["seconds"])


def plan_all(wanted: Sequence[Job], *, scale: str, path: Path) -> None:
    """Plan every setting of `wanted` once that this commit has not planned on this machine, and keep each at once."""
    settings: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for job in wanted:
        settings[job.overrides].append(job)
    here = {"scale": scale, "machine": machine(), "commit": provenance.commit()}
    for number, (overrides, jobs) in enumerate(settings.items(), start=1):
        row = {"setting": shlex.join(overrides), "runs": len(jobs), **here}
        if any(row.items() <= one.items() for one in load(path)):
            continue
        start = time.monotonic()
        row["seconds"] = round(seconds(jobs[0]), 1)
        # Read again: another process may have planned other claims meanwhile.
        others = [one for one in load(path) if (one["scale"], one["setting"]) != (scale, row["setting"])]
        write_rows(path, sorted([*others, row], key=lambda one: (one["scale"], one["setting"])))
        took = f"planned in {time.monotonic() - start:.0f} s"
        print(f"[{number}/{len(settings)}] {row['setting']}: {row['seconds']:,.0f} s a run, {took}", flush=True)


def planned(claim: Claim, trial: Trial, rows: Sequence[Mapping[str, Any]]) -> Planned | None:
    """Of a claim at a trial; None where a setting of it was not planned."""
    seeds = claim.seeds_of(trial)
    settings = {shlex.join(job.overrides) for arm in claim.arms if (job := claim.job(trial, arm, seeds[0]))}
    known = [row for row in rows if row["scale"] == trial.scale and row["setting"] in settings]
    if not settings or len(known) < len(settings):
        return None
    return Planned(
        minutes=sum(row["seconds"] for row in known) * len(seeds) / 60,
        machine="; ".join(sorted({row["machine"] for row in known})),
    )
