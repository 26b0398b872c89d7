"""What sets runs apart: their overrides, without those that change nothing of what is computed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lightning_modules.common.digests import number_of

# Groups whose options are parameters of a run in MLflow.
SCIENCE = ("model", "balance", "data", "preset", "backbone", "tuner", "objective", "optimizer", "trainer")
# Keys and groups of how, where and with how much to see a run is made, with all below them. The seed has a part of the
# folder's name to itself.
NOISE = (
    *("seed", "fresh", "threads", "side_by_side", "plan", "plan_flops", "replay", "replay_from_cache", "look"),
    *("run_name", "shown_metrics", "logger", "paths", "hydra"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "callbacks.progress"),
)


def identifies(override: str) -> bool:
    """Whether an override, such as `balance=micro` or `~callbacks.figures`, is part of what a run computes."""
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    return not any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in NOISE)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key with dots, value) of all in a config that is no mapping."""
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def folder(overrides: Iterable[str], seed: int) -> str:
    """Name of the run's directory, which is also the tag `folder` of its MLflow run. Overrides as they were typed."""
    text = ",".join(sorted(filter(identifies, overrides)))
    return f"{number_of(text, size=4):08x}-s{seed}"


def by_setting(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs grouped by the overrides (key `overrides`) in which they differ, seeds together, in order of appearance."""
    kept = [list(filter(identifies, run["overrides"])) for run in runs]
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
