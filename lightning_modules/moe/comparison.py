"""Compares finished MoE runs: `python -m lightning_modules.moe.comparison runs/moe/scope`.

Prints a table (mean and 95% interval over seeds per setting) and writes it with three figures into the folder.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_modules.common.tables import by_seeds, markdown, show
from lightning_modules.moe import figures as draw
from lightning_modules.moe.specialization import selection_share_DLE
from lightning_modules.runtime import begun, records
from lightning_modules.runtime.identity import by_setting
from lightning_modules.runtime.provenance import NOT_KEPT

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
    """Finished runs below `folder`: what result.json holds, overrides and folder. ValueError when there are none."""
    runs = []
    for place in sorted(path.parent for path in folder.rglob(records.RESULT)):
        if result := records.result(place):
            overrides = yaml.safe_load((place / ".hydra" / "overrides.yaml").read_text())
            runs.append({**result, "overrides": overrides, "folder": place})
    if not runs:
        raise ValueError(f"no finished run (no result.json) below {folder}; start with `make run`.")
    return runs


def shares(run: dict[str, Any]) -> tuple[torch.Tensor, list[str]]:
    tally = torch.load(run["folder"] / "figures" / "routing_test.pt", weights_only=True)
    domains = tally["domains"]
    share = selection_share_DLE(counts_NLE=tally["counts_NLE"], domain_N=tally["domain_N"], domains=len(domains))
    return share, domains


def compare(folder: Path, out: Path) -> tuple[list[str], list[list[Any]]]:
    """Write heatmaps.png, ppl_by_domain.png and comparison.md about the runs below `folder` to `out`; the table."""
    runs = load(folder)
    settings = by_setting(runs)
    if unlike := begun.mixed({name: [run["folder"] for run in of] for name, of in settings.items()}):
        raise ValueError(" ".join(unlike))
    # Backwards, so that the micro-batch scope is the one that others are compared with.
    groups = dict(sorted(settings.items(), reverse=True))
    columns, rows = by_seeds(groups, COLUMNS)
    first = {name: shares(runs[0]) for name, runs in groups.items()}
    domains = next(iter(first.values()))[1]
    draw.compare_heatmaps(runs={n: s for n, (s, _) in first.items()}, domains=domains).savefig(out / "heatmaps.png")
    perplexity = {
        name: {d: [r["metrics"][f"test/ppl_{d}"] for r in runs] for d in domains} for name, runs in groups.items()
    }
    draw.ppl_by_domain(values=perplexity).savefig(out / "ppl_by_domain.png")
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
