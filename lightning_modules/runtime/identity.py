"""What sets runs apart: their overrides, without those that change nothing of what is computed."""

from collections import defaultdict
from typing import Any

NOISE = ("seed=", "fresh=", "threads=", "paths.", "logger", "hydra.", "plan=", "replay=")


def by_setting(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs grouped by the overrides (key `overrides`) in which they differ, seeds together, in order of appearance."""
    kept = [[o for o in run["overrides"] if not o.startswith(NOISE)] for run in runs]
    common = set.intersection(*map(set, kept)) if kept else set()
    groups = defaultdict(list)
    for run, overrides in zip(runs, kept, strict=True):
        groups[" ".join(o for o in overrides if o not in common) or "default"].append(run)
    return dict(groups)
