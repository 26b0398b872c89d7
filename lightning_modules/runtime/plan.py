"""What a run would take: `python main.py ... plan=true` trains nothing but five timed steps."""

import sys
import tempfile
import time
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from lightning_modules.common.tables import terminal
from lightning_modules.runtime import provenance, quiet

WARM_UP, TIMED = 2, 5


class Clock(pl.Callback):
    """When each optimizer step ended, and the most memory the process held."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.peak = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.peak = max(self.peak, psutil.Process().memory_info().rss)
        if trainer.global_step > len(self.ends):
            self.ends.append(time.perf_counter())


def plan(cfg: DictConfig) -> dict[str, float]:
    """Parameters, tokens, FLOPs, memory (MiB), disk (MiB) and seconds of the run that `cfg` describes.

    FLOPs are 6 x active parameters x tokens, forward and backward. Disk is two resume points, the best checkpoint (each
    weights and two moments) and the export. Time is that of the steps; validation and test come on top.
    """
    quiet.hush()
    if cfg.study is not None:
        raise ValueError("plan=true is for runs that train; this experiment is a study (study._target_ is set).")
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
    names, title = list(plans[0][1]), "Plan (nothing is trained)"
    if len(plans) == 1:
        table = terminal(["", "this run"], [[name, text(plans[0][1][name])] for name in names], title=title)
    else:
        adds_up = ("steps", "tokens", "FLOPs", "disk, MiB", "seconds")
        total = ["sum", *(text(sum(found[n] for _, found in plans)) if n in adds_up else "" for n in names)]
        rows = [[job, *(text(found[n]) for n in names)] for job, found in plans]
        table = terminal(["job", *names], [*rows, total], title=title)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def text(value: float) -> str:
    if value >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
