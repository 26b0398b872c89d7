"""What a run or study would take: `python main.py ... plan=true` trains nothing but a few timed steps, and keeps nothing."""

import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from lightning_modules.common import making
from lightning_modules.common.tables import terminal
from lightning_modules.runtime import provenance, quiet
from lightning_modules.runtime.study import needs
from lightning_modules.runtime.timer import TIMED, WARM_UP, Timer


class Clock(pl.Callback):
    """When each optimizer step ended, and the most memory the process held."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.peak = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.peak = max(self.peak, psutil.Process().memory_info().rss)
        if trainer.global_step > len(self.ends):
            self.ends.append(time.perf_counter())


def plans(jobs: Iterable[tuple[str, DictConfig]]) -> list[tuple[str, dict[str, float]]]:
    """Of every job of a sweep; what an earlier job makes, a later one finds."""
    earlier: set[tuple[str, ...]] = set()
    return [(name, plan(cfg, earlier)) for name, cfg in jobs]


def plan(cfg: DictConfig, earlier: set[tuple[str, ...]]) -> dict[str, float]:
    """Counts, memory (MiB) and seconds of what `cfg` describes, a run or a study; `earlier` gets what it would make."""
    quiet.hush()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    with tempfile.TemporaryDirectory() as folder:
        timer = Timer(Path(folder))
        with making.watched_by(timer):
            found = plan_study(cfg, timer) if cfg.study else plan_run(cfg)
        # Also what the run needs before it begins, as a backbone.
        things = {t.identity: (t, kept or t.identity in earlier) for t, kept in timer.asked.values()}
    missing = [thing for thing, kept in things.values() if not kept]
    earlier |= {thing.identity for thing in missing}
    for kind in dict.fromkeys(thing.kind for thing, _ in things.values()):
        found[f"{kind}: to make"] = sum(thing.kind == kind for thing in missing)
        found[f"{kind}: kept already"] = sum(t.kind == kind and kept for t, kept in things.values())
        if kind in timer.costs and any(thing.kind == kind for thing in missing):
            found[f"{kind}: seconds each"] = median(timer.costs[kind].of(t) for t in missing if t.kind == kind)
    found["seconds"] = found.pop("seconds", 0.0) + sum(timer.costs[t.kind].of(t) for t in missing)
    return found


def plan_study(cfg: DictConfig, timer: Timer) -> dict[str, float]:
    """One thing of each kind that is missing is made, cut short. Time is that of making; the analysis comes on top."""
    study = instantiate(cfg.study)
    study.prepare()
    needed = {thing.identity: thing for thing in needs(study)}
    for thing in needed.values():
        if not thing.is_kept and thing.kind not in timer.costs:
            assert thing.ask, thing
            thing.ask()
    # Asked for with others, some were seen already, and what is kept is where the study will look.
    timer.asked |= {name: (thing, thing.is_kept) for name, thing in needed.items()}
    return {"steps": sum(t.steps for t, kept in timer.asked.values() if not kept), "memory, MiB": timer.peak / 2**20}


def plan_run(cfg: DictConfig) -> dict[str, float]:
    """Parameters, tokens, FLOPs, memory, disk and seconds.

    FLOPs are 6 x active parameters x tokens, forward and backward. Disk is two resume points, the best checkpoint (each
    weights and two moments) and the export. Time is that of the steps; validation and test come on top.
    """
    datamodule, module = instantiate(cfg.data), instantiate(cfg.module)
    counts = provenance.parameters(module)
    tokens = cfg.trainer.max_steps * datamodule.tokens_per_step
    found = {
        "parameters": counts["total"],
        "active parameters": counts.get("active", counts["total"]),
        "steps": cfg.trainer.max_steps,
        "tokens": tokens,
        "FLOPs": 6.0 * counts.get("active", counts["total"]) * tokens,
        "disk, MiB": (3 * 3 + 1) * 4 * counts["total"] / 2**20,
    }
    clock = Clock()
    settings = {**instantiate(cfg.trainer), "max_steps": WARM_UP + TIMED, "enable_progress_bar": False, "devices": 1}
    settings |= {"strategy": "auto", "limit_val_batches": 0, "enable_checkpointing": False, "logger": False}
    datamodule.prepare_data()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(callbacks=[clock], default_root_dir=folder, **settings)
        trainer.fit(module, datamodule=datamodule)
    a_step = (clock.ends[-1] - clock.ends[WARM_UP - 1]) / TIMED
    found["seconds a step"] = a_step
    found["seconds"] = a_step * cfg.trainer.max_steps
    found["memory, MiB"] = clock.peak / 2**20
    if torch.cuda.is_available():
        found["GPU memory, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def show(plans: list[tuple[str, dict[str, float]]]) -> None:
    """A column for one run; for a sweep a row a job, and the sum of what adds up."""
    names, title = list(dict.fromkeys(n for _, found in plans for n in found)), "Plan (nothing is trained)"
    if len(plans) == 1:
        table = terminal(["", "this run"], [[name, text(plans[0][1][name])] for name in names], title=title)
    else:
        total = ["sum", *(text(sum(found.get(n, 0) for _, found in plans)) if adds_up(n) else "" for n in names)]
        rows = [[job, *(text(found[n]) if n in found else "" for n in names)] for job, found in plans]
        table = terminal(["job", *names], [*rows, total], title=title)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def adds_up(name: str) -> bool:
    return name in ("steps", "tokens", "FLOPs", "disk, MiB", "seconds") or name.endswith(
        (": to make", ": kept already")
    )


def text(value: float) -> str:
    if value >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
