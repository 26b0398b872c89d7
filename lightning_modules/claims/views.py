"""A row of the claims table as programs read it (claims.json) and as the templates show it."""

import math
import re
from typing import Any

from lightning_modules.claims import power
from lightning_modules.claims import statistics as st
from lightning_modules.claims.evidence import Row
from lightning_modules.common.tables import Estimate, mean_ci

# What a claim may cost to be asked again, in minutes on two cores.
AFFORDABLE = 40
RULES = {
    "superiority": "superiority: above 0, and at least {margin:g}",
    "noninferiority": "noninferiority: above -{margin:g}",
    "equivalence": "equivalence: within ±{margin:g}",
}
UI = "http://127.0.0.1:5000"


def as_json(row: Row) -> dict[str, Any]:
    """A row with all that its verdict follows from; numbers that are not there are null.

    p_holm: of the test that the statement stands, corrected; p_against: of the one that it falls, as the verdict takes it,
    and p_against_holm corrected likewise. numberless: seed -> why a run of it has no number.
    power, power_alpha, seeds_for_80: `evidence.Strength`. sensitivity: the verdict at half and at twice the margin.
    minutes: of the row's runs on two cores, or on one GPU. minutes_planned, planned_on: by plan (`claims.costs`).
    fixed_in, fixed_before_runs, commit, machine: `evidence.Origin`.
    """
    found, claim, strength = row.finding, row.claim, row.strength
    ids = sorted({run for runs in row.runs.values() for run in runs.values()})

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "system": claim.system,
        "claim": row.name,
        "row": row.key,
        "paper": claim.paper,
        "statement": claim.statement,
        "verdict": row.verdict,
        "effect": number(found.effect) if found else None,
        "ci_low": number(found.low) if found else None,
        "ci_high": number(found.high) if found else None,
        "margin": claim.margin,
        "seeds": row.seeds,
        "scale": row.trial.scale,
        "data": row.trial.data,
        "runs": ids,
        "rule": claim.rule,
        "unit": claim.unit,
        "transform": claim.transform,
        "contrast": dict(claim.contrast),
        "metrics": {arm: claim.metric_of(row.trial, arm) for arm, own in claim.arms.items() if own.value is None},
        "p_holm": number(row.p_holm),
        "p_against": number(found.p_against) if found else None,
        "p_against_holm": number(row.against_holm),
        "experiment": row.trial.experiment,
        "series": row.trial.series,
        "values": {str(seed): dict(values) for seed, values in row.values.items()},
        "seeds_missing": list(row.missing),
        "numberless": {str(seed): why for seed, why in row.numberless.items()},
        "runs_of": {str(seed): dict(runs) for seed, runs in row.runs.items()},
        "power": number(strength.power) if strength else None,
        "power_alpha": strength.alpha if strength else None,
        "seeds_for_80": strength.seeds if strength else None,
        "sensitivity": dict(strength.sensitivity) if strength else {},
        "minutes": round(row.minutes, 1) if ids else None,
        "minutes_planned": round(row.planned.minutes, 1) if row.planned else None,
        "planned_on": row.planned.machine if row.planned else "",
        "fixed_in": row.origin.fixed_in or None,
        "fixed_before_runs": row.origin.fixed_before_runs,
        "commit": row.origin.commit,
        "machine": row.origin.machine,
        "commands": row.commands(),
    }


def view(row: Row, discussion: str, *, later: bool = False) -> dict[str, Any]:
    """A row as the templates show it: strings. later: whether a later series decided the claim."""
    found, claim, strength = row.finding, row.claim, row.strength
    arms = [
        {
            "name": arm,
            "value": str(_digits(mean_ci(row.arm(arm)))) if found else "–",
            "metric": "" if given.value is not None else claim.metric_of(row.trial, arm),
        }
        for arm, given in claim.arms.items()
    ]
    links = [
        {"seed": seed, "runs": [{"arm": arm, "id": run, "url": _url(run, row)} for arm, run in runs.items()]}
        for seed, runs in row.runs.items()
    ]
    return {
        "anchor": re.sub("[/@_+]", "-", row.key),
        "title": title(row),
        "measured": found is not None,
        "claim": claim,
        "trial": row.trial,
        "rule": f"{RULES[claim.rule].format(margin=claim.margin)} {claim.unit}",
        "verdict": row.verdict,
        "effect": f"{found.effect:+.3g}" if found else "–",
        "interval": f"[{found.low:+.3g}, {found.high:+.3g}]" if found and found.n > 1 else "",
        "seeds": f"{len(row.seeds)} of {len(row.seeds) + len(row.missing)}",
        "tests": _tests(row),
        "numberless": _numberless(row),
        "arms": arms,
        "commands": row.commands(),
        "links": links,
        "power": f"{strength.power:.2f}" if strength and not math.isnan(strength.power) else "–",
        "half": _short(strength.sensitivity["0.5"], row.verdict) if strength else "–",
        "twice": _short(strength.sensitivity["2"], row.verdict) if strength else "–",
        "minutes": f"{row.minutes:.0f}" if found else "–",
        "planned": f"{row.planned.minutes:,.0f}" if row.planned else "not measured",
        "planned_on": row.planned.machine if row.planned else "",
        "origin": row.origin,
        "settled_by": settled_by(row, later=later),
        "discussion": discussion,
        "short": f"make claims C={row.name}"
        + (" SCALE=gpu" if row.trial.scale == "gpu" else "")
        + (f" SERIES={row.trial.series}" if row.trial.series != "first" else ""),
    }


def settled_by(row: Row, *, later: bool = False) -> str:
    """Of an open row, how many seeds would give the test 80% power at the margin, and whether that is affordable.

    later: whether a later series decided the claim.
    """
    if row.verdict != st.INCONCLUSIVE or row.strength is None:
        return ""
    if later:
        return "A later series decided it."
    claim, strength, seeds = row.claim, row.strength, len(row.seeds)
    if row.missing:
        to_run = [seed for seed in row.missing if seed not in row.numberless]
        named = f"; missing: {', '.join(map(str, to_run))} ({_cost(row, len(to_run))})" if to_run else ""
        return f"A verdict wants all of its seeds{named}. {_numberless(row)}".strip()
    test = f"80% power at the margin beside the other claims (one-sided p < {strength.alpha:.2g})"
    if strength.seeds is None:
        return f"No number of seeds that could be run gives {test}: the effects of the seeds are too far apart."
    if strength.seeds <= seeds:
        return (
            f"{strength.seeds} seeds give {test}, and this series had {seeds}: more of the same would hardly settle it, as "
            "the effect lies about where the rule divides."
        )
    told = f"By the spread of these seeds {strength.seeds} give {test}: {_cost(row, strength.seeds)}."
    if claim.rule == "superiority" and row.finding and row.finding.effect > claim.margin:
        seen = row.finding.effect
        fewer = power.seeds_for(power.spread(row.effects), rule=claim.rule, margin=seen, alpha=strength.alpha)
        told += f" Were the effect as large as seen here, {fewer} would do: {_cost(row, fewer)}." if fewer else ""
    return told


def _numberless(row: Row) -> str:
    """Of seeds that ran for nothing, which running them again would not change."""
    reasons: dict[str, list[str]] = {}
    for seed, why in row.numberless.items():
        reasons.setdefault(why, []).append(str(seed))
    return " ".join(f"Run, and without a number: {', '.join(seeds)} ({why})." for why, seeds in reasons.items())


def _tests(row: Row) -> str:
    """The p of the test that the verdict looked at: corrected for what stands, as it is for what falls."""
    found = row.finding
    if found is None or math.isnan(row.p_holm):
        return "no test yet, as seeds are missing"
    against = f"p = {found.p_against:.2g} against the statement (uncorrected; {row.against_holm:.2g} by Holm)"
    return against if row.verdict == st.NOT_REPRODUCED else f"p = {row.p_holm:.2g} (Holm)"


def _cost(row: Row, seeds: int) -> str:
    minutes = row.minutes / len(row.seeds) * seeds
    if row.trial.scale == "gpu":
        return f"{minutes:.1f} minutes on one GPU"
    if minutes > AFFORDABLE:
        return f"{minutes:.0f} minutes on two cores, over the {AFFORDABLE} that a claim may take"
    if _own_model(row):
        return f"{minutes:.0f} minutes on two cores, and the time in which each fresh seed's model is pretrained"
    return f"{minutes:.0f} minutes on two cores, within the {AFFORDABLE} that a claim may take"


def _own_model(row: Row) -> bool:
    """Whether each seed has a pretrained model of its own, which the first series found in the cache."""
    return row.claim.system == "svco" or any("${seed}" in override for override in row.trial.run)


def title(row: Row, *, scale: bool = False) -> str:
    """The claim's name in words; marked by its series, on real data where it is tried on synthetic ones too, and on a GPU
    where `scale` asks for it.
    """
    kinds = {trial.data for trial in row.claim.trials}
    marks = ["real data"] if len(kinds) > 1 and row.trial.data == "real" else []
    marks += ["GPU"] if scale and row.trial.scale == "gpu" else []
    marks += [row.trial.series] if row.trial.series != "first" else []
    return row.name.split("/")[1].replace("_", " ") + (f" ({', '.join(marks)})" if marks else "")


def _digits(found: Estimate) -> str:
    """Four significant digits of the mean, as many decimals in the interval."""
    decimals = max(0, 3 - math.floor(math.log10(abs(found.mean)))) if found.mean else 3
    half = f" ± {found.half_width:.{decimals}f}" if found.n > 1 else ""
    return f"{found.mean:.{decimals}f}{half}"


def _short(verdict: str, now: str) -> str:
    return "same" if verdict == now else verdict


def _url(run: str, row: Row) -> str:
    """'' of a run that is in another MLflow."""
    experiment = row.origin.experiments.get(run)
    return f"{UI}/#/experiments/{experiment}/runs/{run}" if experiment else ""
