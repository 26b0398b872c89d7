"""The rows of a table that was written before, read back from its claims.json: measurements and where they came from.

Verdicts in it are not read: they follow from the measurements by the claims of today, which have to be those of then.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.claims.claim import Claim, Trial
from lightning_modules.claims.evidence import AT_ONCE, Origin, Row, judgeable
from lightning_modules.claims.views import as_json

# What a verdict follows from beside the measurements.
FIXED = ("rule", "margin", "transform", "contrast", "metrics", "commands")


def load(path: Path, claims: Mapping[str, Claim]) -> dict[str, Row]:
    """Rows by key; what is no claim any more is left out.

    Raises:
        ValueError: with file and row, where a row is of other arms, seeds, settings or rules than its claim has now.
    """
    entries = json.loads(path.read_text()) if path.is_file() else []
    places = {
        (name, trial.experiment, trial.series, trial.scale): (claim, trial)
        for name, claim in claims.items()
        for trial in claim.trials
    }
    return {
        entry["row"]: _row(entry, *places[place], path)
        for entry in entries
        if (place := tuple(entry[key] for key in ("claim", "experiment", "series", "scale"))) in places
    }


def _row(entry: Mapping[str, Any], claim: Claim, trial: Trial, path: Path) -> Row:
    values = {int(seed): dict(own) for seed, own in entry["values"].items()}
    if other := next((own for own in values.values() if set(own) != set(claim.arms)), None):
        raise ValueError(
            f"{path}: {entry['row']} has the arms {sorted(other)}; the claim has {sorted(claim.arms)} now."
        )
    if wrong := [seed for seed in values if seed not in claim.seeds_of(trial)]:
        raise ValueError(
            f"{path}: {entry['row']} has seed {wrong[0]}; the claim has {list(claim.seeds_of(trial))} now."
        )
    runs = {int(seed): dict(own) for seed, own in entry["runs_of"].items()}
    # Only their sum is kept, so each is its mean.
    each = AT_ONCE[trial.scale] * (entry["minutes"] or 0.0) / max(1, len(entry["runs"]))
    origin = Origin(
        commit=entry["commit"],
        machine=entry["machine"],
        minutes=dict.fromkeys(entry["runs"], each),
        fixed_in=entry["fixed_in"] or "",
        fixed_before_runs=entry["fixed_before_runs"],
    )
    numberless = {int(seed): why for seed, why in entry.get("numberless", {}).items()}
    row = judgeable(entry["claim"], claim, trial, values, runs)._replace(origin=origin, numberless=numberless)
    now = as_json(row)
    # Kept numbers under another margin, or another command, would pass for a claim that was fixed before its runs.
    if changed := next((f for f in FIXED if values and f in entry and entry[f] != now[f]), ""):
        raise ValueError(
            f"{path}: {entry['row']} was measured with {changed} {entry[changed]}; the claim has {now[changed]} now. "
            f"Give what is asked anew a name of its own, or mend {changed} there if it only reads otherwise."
        )
    return row
