"""Compares finished MoE runs: `python -m lightning_modules.moe.comparison runs/moe/scope`.

Prints a table (mean and 95% interval over seeds per setting) and writes it with three figures into the folder.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_modules.common import metric_names as names
from lightning_modules.common.style import save
from lightning_modules.common.tables import by_seeds, markdown, show
from lightning_modules.moe import figures as draw
from lightning_modules.moe.specialization import kept_share
from lightning_modules.runtime import begun, records
from lightning_modules.runtime.identity import by_setting
from lightning_modules.runtime.provenance import NOT_KEPT

TALLY = Path("figures") / "routing_test.pt"
Groups = dict[str, list[dict[str, Any]]]
COLUMNS = {
    "test/ppl": "PPL",
    "test/choice_accuracy": "zero-shot choice",
    "test/mutual_information": "I(expert; domain)",
    "test/mutual_information_shuffled_q95": "shuffled, 95%",
    "test/top_share": "top share",
    "test/topk_score_sum": "top-k score sum",
    "test/maxvio_global": "MaxVio",
}


def load(folder: Path) -> list[dict[str, Any]]:
    """Finished runs below `folder`: what result.json holds, overrides, seed and folder.

    ValueError when there are none, or one that was not tested.
    """
    runs = []
    for place in sorted(path.parent for path in folder.rglob(records.RESULT)):
        if result := records.result(place):
            overrides, config = (
                yaml.safe_load((place / ".hydra" / f"{name}.yaml").read_text()) for name in ("overrides", "config")
            )
            runs.append({**result, "overrides": overrides, "seed": config["seed"], "folder": place})
    if not runs:
        raise ValueError(f"no finished run (no result.json) below {folder}; start with `make run`.")
    if untested := [str(run["folder"]) for run in runs if not (run["folder"] / TALLY).is_file()]:
        raise ValueError(
            f"nothing to compare: {', '.join(untested)} has no {TALLY}, which the test split leaves. Expected runs that "
            "were tested (test=true, with the callback held_out): take another folder, or run it again with fresh=true."
        )
    return runs


def shares(run: dict[str, Any]) -> tuple[torch.Tensor, list[str]]:
    return kept_share(torch.load(run["folder"] / TALLY, weights_only=True))


def refuse_unlike(groups: Groups, first: dict[str, tuple[torch.Tensor, list[str]]]) -> None:
    """ValueError for a setting that cannot stand beside the first: of other experts, other domains or other seeds."""
    base, *others = groups
    shapes = {
        name: f"{share.shape[1]} layers of {share.shape[2]} experts on {', '.join(domains)}"
        for name, (share, domains) in first.items()
    }
    if unlike := [name for name in others if shapes[name] != shapes[base]]:
        raise ValueError(
            f"{base} has {shapes[base]}, but {'; '.join(f'{name} has {shapes[name]}' for name in unlike)}: their experts "
            "cannot be drawn beside each other. Expected one shape and the same domains; a sweep's report compares others."
        )
    seeds = {name: sorted(run["seed"] for run in runs) for name, runs in groups.items()}
    if alone := [name for name in others if not set(seeds[name]) & set(seeds[base])]:
        raise ValueError(
            f"{'; '.join(f'{name} has seeds {seeds[name]}' for name in alone)}, but {base} has {seeds[base]}; expected a "
            "seed of both, as differences are taken seed by seed."
        )


def compare(folder: Path, out: Path) -> tuple[list[str], list[list[Any]]]:
    """Write heatmaps.png, ppl_by_domain.png and comparison.md about the runs below `folder` to `out`; the table."""
    runs = load(folder)
    settings = by_setting(runs)
    if unlike := begun.mixed({name: [run["folder"] for run in of] for name, of in settings.items()}):
        raise ValueError(" ".join(unlike))
    # Backwards, so that the micro-batch scope is the one that others are compared with.
    groups = dict(sorted(settings.items(), reverse=True))
    first = {name: shares(runs[0]) for name, runs in groups.items()}
    refuse_unlike(groups, first)
    domains = next(iter(first.values()))[1]
    perplexity = {
        name: {d: {r["seed"]: r["metrics"][names.per_domain("test/ppl", d)] for r in runs} for d in domains}
        for name, runs in groups.items()
    }
    columns, rows = by_seeds(groups, COLUMNS)
    save(draw.compare_heatmaps(runs={n: s for n, (s, _) in first.items()}, domains=domains), out / "heatmaps.png")
    save(draw.ppl_by_domain(values=perplexity), out / "ppl_by_domain.png")
    commits = ", ".join(sorted({run["commit"] for run in runs}))
    # Runs of before have not kept theirs.
    machines = "; ".join(sorted({run.get("machine", NOT_KEPT) for run in runs}))
    (out / "comparison.md").write_text(f"Commit {commits}; {machines}.\n\n{markdown(columns, rows)}")
    return columns, rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="where the table and the figures go; default: the folder itself")
    given = parser.parse_args()
    target = given.out or given.folder
    target.mkdir(parents=True, exist_ok=True)
    try:
        found = compare(given.folder, target)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    show(*found, title=f"{given.folder}, mean ± 95% interval over seeds")
    print(f"{target}/heatmaps.png, ppl_by_domain.png and comparison.md are written.")
