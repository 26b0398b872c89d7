"""What sets runs apart: their overrides, without those that change nothing of what is computed."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

# Groups whose options are parameters of a run in MLflow.
SCIENCE = ("model", "balance", "data", "preset", "backbone", "tuner", "objective", "optimizer", "trainer")
NOISE = ("seed=", "fresh=", "threads=", "paths.", "logger", "hydra.", "plan=", "replay=")


def by_setting(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs grouped by the overrides (key `overrides`) in which they differ, seeds together, in order of appearance."""
    kept = [[o for o in run["overrides"] if not o.startswith(NOISE)] for run in runs]
    common = set.intersection(*map(set, kept)) if kept else set()
    groups = defaultdict(list)
    for run, overrides in zip(runs, kept, strict=True):
        groups[" ".join(o for o in overrides if o not in common) or "default"].append(run)
    return dict(groups)


def options(choices: Mapping[str, str | None]) -> dict[str, str]:
    """Group -> option of the groups that define the science, of Hydra's `runtime.choices`.

    A group that stands at a key of its own (`backbone@source_backbone`) is called by that key.
    """
    found = {}
    for key, option in choices.items():
        group, _, package = key.partition("@")
        name = package or group
        # Deeper ones, as the objectives that a study compares, are its parts and no choice of the user's.
        if group in SCIENCE and option is not None and "." not in name:
            found[name] = option
    return found
