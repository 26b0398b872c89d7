"""A row of the claims table as programs read it (claims.json) and as the templates show it."""

import math
import re
from collections.abc import Mapping
from typing import Any

from lightning_modules.claims.evidence import Row
from lightning_modules.common.tables import Estimate, mean_ci
from lightning_modules.runtime.provenance import machine

UI = "http://127.0.0.1:5000"


def as_json(row: Row, commits: Mapping[str, str]) -> dict[str, Any]:
    """A row with all that its verdict follows from; numbers that are not there are null."""
    found, claim = row.finding, row.claim
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
        "p_holm": number(row.p_holm),
        "experiment": row.trial.experiment,
        "series": row.trial.series,
        "values": {str(seed): dict(values) for seed, values in row.values.items()},
        "seeds_missing": list(row.missing),
        "commit": ", ".join(sorted({commits[run] for run in ids})),
        "machine": machine(),
        "commands": row.commands(),
    }


def view(row: Row, commits: Mapping[str, str], experiments: Mapping[str, str], discussion: str) -> dict[str, Any]:
    """A row as the templates show it: strings."""
    found, claim = row.finding, row.claim
    effect = f"{found.effect:+.3g}" if found else "–"
    interval = f"[{found.low:+.3g}, {found.high:+.3g}]" if found and found.n > 1 else ""
    arms = [
        {
            "name": arm,
            "value": str(_digits(mean_ci(row.arm(arm)))) if found else "–",
            "metric": "" if given.value is not None else claim.metric_of(row.trial, arm),
        }
        for arm, given in claim.arms.items()
    ]
    links = [
        {"seed": seed, "runs": [{"arm": arm, "id": run, "url": _url(run, experiments)} for arm, run in runs.items()]}
        for seed, runs in row.runs.items()
    ]
    return {
        "anchor": _anchor(row),
        "title": title(row),
        "measured": found is not None,
        "claim": claim,
        "trial": row.trial,
        "rule": _rule(claim.rule, claim.margin, claim.unit),
        "verdict": row.verdict,
        "effect": effect,
        "interval": interval,
        "seeds": f"{len(row.seeds)} of {len(row.seeds) + len(row.missing)}",
        "p": "" if math.isnan(row.p_holm) else f"{row.p_holm:.2g}",
        "arms": arms,
        "commands": row.commands(),
        "links": links,
        "commit": ", ".join(sorted({commits[run] for runs in row.runs.values() for run in runs.values()})),
        "discussion": discussion,
        "short": f"make claims C={row.name}"
        + (" SCALE=gpu" if row.trial.scale == "gpu" else "")
        + (" SERIES=confirmation" if row.trial.series == "confirmation" else ""),
    }


def title(row: Row) -> str:
    """The claim's name in words; marked where it is a confirmation, or on real data and tried on synthetic ones too."""
    kinds = {trial.data for trial in row.claim.trials}
    marks = ["real data"] if len(kinds) > 1 and row.trial.data == "real" else []
    marks += [row.trial.series] if row.trial.series != "first" else []
    return row.name.split("/")[1].replace("_", " ") + (f" ({', '.join(marks)})" if marks else "")


def _digits(found: Estimate) -> str:
    """Four significant digits of the mean, as many decimals in the interval."""
    decimals = max(0, 3 - math.floor(math.log10(abs(found.mean)))) if found.mean else 3
    half = f" ± {found.half_width:.{decimals}f}" if found.n > 1 else ""
    return f"{found.mean:.{decimals}f}{half}"


def _rule(rule: str, margin: float, unit: str) -> str:
    told = {
        "superiority": f"superiority: above 0, and at least {margin:g}",
        "noninferiority": f"noninferiority: above -{margin:g}",
        "equivalence": f"equivalence: within ±{margin:g}",
    }
    return f"{told[rule]} {unit}"


def _anchor(row: Row) -> str:
    return re.sub("[/@_+]", "-", row.key)


def _url(run: str, experiments: Mapping[str, str]) -> str:
    return f"{UI}/#/experiments/{experiments[run]}/runs/{run}"
