"""Compares finished MoE runs: `python -m lightning_modules.reports.moe_compare runs/moe/scope`.

Prints a table (mean and 95% interval over seeds per setting) and writes it with three figures into the folder.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from lightning_modules.moe.specialization import selection_share_DLE
from lightning_modules.reports import moe_figures as draw
from lightning_modules.reports.tables import markdown, mean_ci, terminal

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
    """Finished runs below `folder`: metrics, overrides and the test split's routing. ValueError when there are none."""
    runs = []
    for path in sorted(folder.rglob("result.json")):
        overrides = yaml.safe_load((path.parent / ".hydra" / "overrides.yaml").read_text())
        seed = next((o.split("=")[1] for o in overrides if o.startswith("seed=")), "1")
        settings = [o for o in overrides if not o.startswith(("seed=", "fresh=", "threads=", "paths.", "logger"))]
        runs.append({"settings": settings, "seed": seed, "folder": path.parent, **json.loads(path.read_text())})
    if not runs:
        raise ValueError(f"no finished run (no result.json) below {folder}; start with `make run`.")
    return runs


def by_setting(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs grouped by the overrides in which they differ, seeds together."""
    common = set.intersection(*(set(run["settings"]) for run in runs))
    groups = defaultdict(list)
    for run in runs:
        groups[" ".join(o for o in run["settings"] if o not in common) or "default"].append(run)
    return dict(sorted(groups.items(), reverse=True))


def shares(run: dict[str, Any]) -> tuple[torch.Tensor, list[str]]:
    tally = torch.load(run["folder"] / "figures" / "routing_test.pt", weights_only=True)
    domains = tally["domains"]
    share = selection_share_DLE(counts_NLE=tally["counts_NLE"], domain_N=tally["domain_N"], domains=len(domains))
    return share, domains


def compare(folder: Path) -> tuple[list[str], list[list[Any]]]:
    """Write heatmaps.png, ppl_by_domain.png and comparison.md into `folder`; returns the table."""
    groups = by_setting(load(folder))
    columns = ["setting", "seeds", *COLUMNS.values()]
    rows = [
        [name, len(runs), *(mean_ci([r["metrics"][m] for r in runs]) for m in COLUMNS)] for name, runs in groups.items()
    ]
    first = {name: shares(runs[0]) for name, runs in groups.items()}
    domains = next(iter(first.values()))[1]
    draw.compare_heatmaps(runs={n: s for n, (s, _) in first.items()}, domains=domains).savefig(folder / "heatmaps.png")
    perplexity = {
        name: {d: [r["metrics"][f"test/ppl_{d}"] for r in runs] for d in domains} for name, runs in groups.items()
    }
    draw.ppl_by_domain(values=perplexity).savefig(folder / "ppl_by_domain.png")
    (folder / "comparison.md").write_text(markdown(columns, rows))
    return columns, rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    Console().print(terminal(*compare(target), title=f"{target}, mean ± 95% interval over seeds"))
    print(f"{target}/heatmaps.png, ppl_by_domain.png and comparison.md are written.")
