"""What the page of the claims shows: each claim's effect with its interval, seed by seed, and what every arm measured.

    python -m lightning_modules.claims.look [--file docs/results/claims.json] [--out runs/claims/look.html]

It is drawn from the table that `make report` writes, which writes the page too.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.claims import kept
from lightning_modules.claims.evidence import Row, rows
from lightning_modules.claims.table import load_all
from lightning_modules.claims.views import title, view
from lightning_modules.look import page
from lightning_modules.runtime.sweep import PROJECT

KIND, TITLE = "claims", "What of the papers holds here"


def claims_page(found: Sequence[Row]) -> dict[str, Any]:
    """Rows with at least one seed; numbers have six significant digits."""
    shown = [one(row) for row in found if row.finding]
    verdicts = {v: sum(row["verdict"] == v for row in shown) for v in sorted({row["verdict"] for row in shown})}
    counts = ", ".join(f"{count} {name}" for name, count in verdicts.items())
    return {
        "name": "claims",
        "verdict": f"{len(shown)} of {len(found)} rows have runs: {counts}.",
        "systems": list(dict.fromkeys(row["system"] for row in shown)),
        "verdicts": list(verdicts),
        "rows": shown,
    }


def one(row: Row) -> dict[str, Any]:
    """effects: of each seed, in the claim's unit. arms: what each measured, in the order of `seeds`."""
    found, claim, told = row.finding, row.claim, view(row, "")
    assert found, f"{row.key} has no seed"
    return {
        "key": row.key,
        "title": title(row, scale=True),
        "system": claim.system,
        "paper": f"{claim.paper}, {claim.place}: {claim.number}",
        "statement": claim.statement,
        "scale": f"{row.trial.scale}, {row.trial.data}, {row.trial.series} series",
        "verdict": row.verdict,
        "rule": told["rule"],
        "kind": claim.rule,
        "margin": claim.margin,
        "unit": claim.unit,
        "effect": _number(found.effect),
        "low": _number(found.low) if found.n > 1 else None,
        "high": _number(found.high) if found.n > 1 else None,
        "tests": told["tests"],
        "power": _number(row.strength.power) if row.strength else None,
        "seeds": row.seeds,
        "missing": [seed for seed in row.missing if seed not in row.numberless],
        "numberless": told["numberless"],
        "effects": [_number(effect) for effect in row.effects],
        "arms": [
            {
                "name": arm,
                "metric": "a constant" if given.value is not None else claim.metric_of(row.trial, arm),
                "values": [_number(value) for value in row.arm(arm)],
                "runs": [row.runs[seed].get(arm) for seed in row.seeds],
            }
            for arm, given in claim.arms.items()
        ],
        "commands": row.commands(),
    }


def write(found: Sequence[Row], path: Path) -> Path:
    return page.write(path, kind=KIND, title=TITLE, data={"runs": [claims_page(found)]})


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def of_file(path: Path, claims: Mapping[str, Any]) -> list[Row]:
    """Rows of a claims.json. ValueError where there is none, or none of its rows is a claim of today."""
    if not path.is_file():
        raise ValueError(f"--file {path} is not there; expected the claims.json that make report writes.")
    known = kept.load(path, claims)
    if not known:
        raise ValueError(f"--file {path} has no row of a claim in lightning_modules/claims/tables.")
    return rows(claims, {}, known)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=PROJECT / "docs" / "results" / "claims.json")
    parser.add_argument("--out", type=Path, default=PROJECT / "runs" / "claims" / page.LOOK)
    given = parser.parse_args(argv)
    try:
        page.insist()
        write(of_file(given.file, load_all()), given.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: opens in any browser, without a network.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
