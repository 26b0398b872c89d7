"""What a run or study would take: `python main.py ... plan=true` trains nothing but a few timed steps, and keeps nothing."""

import gc
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lightning_modules.common import making, tables
from lightning_modules.common.say import say
from lightning_modules.runtime import devices, hub, memory, pace, provenance, quiet
from lightning_modules.runtime.load import BUSY, Load, cores
from lightning_modules.runtime.study import needs
from lightning_modules.runtime.timer import TIMED, WARM_UP, Timer, Training
from lightning_modules.training.inner import on_machine_of
from lightning_modules.training.throughput import clock

# Optimizer steps and seconds that are timed: so many steps at least, and so long, but no more steps than MOST.
MOST, LONG = 100, 3.0
OTHERS, NEEDS_MACHINE = "cores that others took", "needs the machine, or plan_flops"
# Columns whose sum over the jobs of a sweep says something, beside the counts of things.
ADD_UP = ("steps", "tokens", "FLOPs", "disk, MiB", "seconds")

Found = dict[str, float | str]


class Clock(pl.Callback):
    """Times optimizer steps until there are `TIMED` of them and `LONG` seconds; and the most memory the process held."""

    def __init__(self) -> None:
        self.training, self.peak = Training(MOST), 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.peak = max(self.peak, psutil.Process().memory_info().rss)
        ends = self.training.ends
        if trainer.global_step >= len(ends):
            ends.append(clock(trainer.strategy.root_device))
            trainer.should_stop = len(ends) > WARM_UP + TIMED and ends[-1] - ends[WARM_UP] >= LONG


def plans(jobs: Iterable[tuple[str, DictConfig]]) -> list[tuple[str, Found]]:
    """Of every job of a sweep; what an earlier job makes, a later one finds."""
    earlier: set[tuple[str, ...]] = set()
    return [(name, plan(cfg, earlier)) for name, cfg in jobs]


def plan(cfg: DictConfig, earlier: set[tuple[str, ...]]) -> Found:
    """Counts, memory (MiB) and seconds of what `cfg` describes, a run or a study; `earlier` gets what it would make.

    Of a run on a GPU that is not here memory is arithmetic, and time that of its FLOPs at `plan_flops` a device.
    """
    quiet.hush()
    hub.ask_its_cache_where_it_is_away(cfg)
    # What the job before this one held is no memory of this one.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    timed = not devices.missing(cfg)
    here, load = (cfg if timed else on_the_cpu(cfg)), Load()
    with tempfile.TemporaryDirectory() as folder:
        timer = Timer(Path(folder), cap=WARM_UP + TIMED if timed else 1)
        with making.watched_by(timer), on_machine_of(here.trainer):
            found = plan_study(here, timer, timed=timed) if cfg.study else plan_run(cfg)
        # Also what the run needs before it begins, as a backbone.
        things = {t.identity: (t, kept or t.identity in earlier) for t, kept in timer.asked.values()}
    missing = [thing for thing, kept in things.values() if not kept]
    earlier |= {thing.identity for thing in missing}
    for kind in dict.fromkeys(thing.kind for thing, _ in things.values()):
        found[f"{kind}: to make"] = sum(thing.kind == kind for thing in missing)
        found[f"{kind}: kept already"] = sum(t.kind == kind and kept for t, kept in things.values())
        if timed and kind in timer.costs and any(thing.kind == kind for thing in missing):
            found[f"{kind}: seconds each"] = median(timer.costs[kind].of(t) for t in missing if t.kind == kind)
    if timed:
        making_them = sum(timer.costs[t.kind].of(t) for t in missing)
        found["seconds"] = found.pop("seconds", 0.0) + making_them  # type: ignore[operator]
        if load.others() >= BUSY:
            found[OTHERS] = load.others()
    else:
        found["seconds"] = found.pop("seconds", NEEDS_MACHINE)
    return found


def on_the_cpu(cfg: DictConfig) -> DictConfig:
    """The same on one CPU device, for what can be counted there."""
    cpu = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}
    return OmegaConf.merge(cfg, {"trainer": {**OmegaConf.to_container(cfg.trainer), **cpu}})  # type: ignore


def plan_study(cfg: DictConfig, timer: Timer, *, timed: bool) -> Found:
    """One thing of each kind that is missing is made, cut short. Time is that of making; the analysis comes on top.

    Not timed, as the device is not here, things are only counted: on the CPU one that is cut short can take minutes too.
    """
    study = instantiate(cfg.study)
    study.prepare()
    needed = {thing.identity: thing for thing in needs(study)}
    for thing in needed.values():
        if timed and not thing.is_kept and thing.kind not in timer.costs:
            assert thing.ask, thing
            say(f"Timing a few of the {thing.steps} steps of a {thing.kind}, and what comes with them.")
            thing.ask()
    # Asked for with others, some were seen already, and what is kept is where the study will look.
    timer.asked |= {name: (thing, thing.is_kept) for name, thing in needed.items()}
    steps = sum(t.steps for t, kept in timer.asked.values() if not kept)
    return {"steps": steps, **({"memory, MiB": timer.peak / 2**20} if timed else {})}


def plan_run(cfg: DictConfig) -> Found:
    """Parameters, tokens, FLOPs, memory, disk and seconds.

    FLOPs are those of all matrix products, forward and backward, where the run is counted for a GPU; else 6 x active
    parameters x tokens. Disk is two resume points, the best checkpoint (each weights and two moments) and the export.
    Time is that of the steps; validation and test come on top.
    """
    datamodule = instantiate(cfg.data)
    on_gpu = cfg.trainer.accelerator in devices.GPU
    if on_gpu:
        datamodule.prepare_data()
        counted, module = memory.count(cfg, datamodule)
    else:
        module = instantiate(cfg.module)
    counts = provenance.parameters(module)
    # Pairs are tokens of the model's own reader.
    of_model = getattr(datamodule, "tokens_per_step_of", None)
    tokens = cfg.trainer.max_steps * (of_model(module) if of_model else datamodule.tokens_per_step)
    found: Found = {
        "parameters": counts["total"],
        "active parameters": counts.get("active", counts["total"]),
        "steps": cfg.trainer.max_steps,
        "tokens": tokens,
        "FLOPs": 6.0 * counts.get("active", counts["total"]) * tokens,
        "disk, MiB": (3 * 3 + 1) * 4 * counts["total"] / 2**20,
    }
    if on_gpu:
        found |= by_arithmetic(cfg, counted, module)
    if devices.missing(cfg):
        return found
    return found | measured(cfg, datamodule, instantiate(cfg.module) if on_gpu else module)


def by_arithmetic(cfg: DictConfig, counted: memory.Counted, module: pl.LightningModule) -> Found:
    ranks = devices.processes(cfg)
    flops = float(counted.flops * cfg.trainer.accumulate_grad_batches * ranks * cfg.trainer.max_steps)
    need = memory.need(cfg, module, activations=counted.activations)
    parts: Found = {f"{name}, MiB a device": size / memory.MIB for name, size in need._asdict().items()}
    whole: Found = {"FLOPs": flops, "devices": ranks, **parts, "memory, MiB a device": sum(need) / memory.MIB}
    if cfg.plan_flops:
        whole["seconds"] = flops / (cfg.plan_flops * ranks)
    return whole


def measured(cfg: DictConfig, datamodule: Any, module: pl.LightningModule) -> Found:
    """A few steps in one process, each in as many forwards as the run's processes take together."""
    # Processes on the CPU share its cores: together they take as long as one with all threads.
    ranks = devices.processes(cfg) if cfg.trainer.accelerator in devices.GPU else 1
    watch = Clock()
    settings = {**instantiate(cfg.trainer), "max_steps": WARM_UP + MOST, "enable_progress_bar": False, "devices": 1}
    settings |= {"num_nodes": 1, "strategy": "auto", "limit_val_batches": 0, "enable_checkpointing": False}
    settings |= {"accumulate_grad_batches": cfg.trainer.accumulate_grad_batches * ranks, "logger": False}
    datamodule.prepare_data()
    say("Timing a few steps.")
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(callbacks=[watch], default_root_dir=folder, **settings)
        trainer.fit(module, datamodule=datamodule)
    a_step = watch.training.a_step / ranks
    found: Found = {
        "seconds a step": a_step,
        "seconds": a_step * cfg.trainer.max_steps,
        "memory, MiB": watch.peak / 2**20,
    }
    if torch.cuda.is_available():
        found["GPU memory, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    pace.remember(cfg, a_step)
    return found


def show(plans: list[tuple[str, Found]]) -> None:
    """A column for one run; for a sweep a row a job, and the sum of what adds up."""
    title = "Plan (nothing is trained)"
    names = list(dict.fromkeys(n for _, found in plans for n in found if n != OTHERS))
    if len(plans) == 1:
        tables.show(["", "this run"], [[name, text(plans[0][1][name])] for name in names], title=title)
    else:
        total = ["sum", *(total_of(name, [found.get(name, 0) for _, found in plans]) for name in names)]
        rows = [[job, *(text(found[n]) if n in found else "" for n in names)] for job, found in plans]
        tables.show(["job", *names], [*rows, total], title=title)
    if others := [found[OTHERS] for _, found in plans if OTHERS in found]:
        Console().print(
            f"The machine is busy: other processes took {text(max(others, key=float))} of its {len(cores())} cores "
            "meanwhile. The seconds are those of a busy machine; on an idle one it takes less.",
            soft_wrap=True,
        )


def total_of(name: str, values: list[float | str]) -> str:
    numbers = [value for value in values if not isinstance(value, str)]
    adds_up = name in ADD_UP or name.endswith((": to make", ": kept already"))
    return text(sum(numbers)) if adds_up and len(numbers) == len(values) else ""


def text(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if value >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
