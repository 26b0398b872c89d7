"""What is wrong with values by themselves and with one another: choices, types, ranges. Nothing of this machine is asked.

One check a function, each naming the keys at odds; a system has its own in `checks.py` of its room.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from lightning_modules.common import metric_names
from lightning_modules.common.choices import nearest
from lightning_modules.runtime import at_once, devices, records, schema, slurm, system
from lightning_modules.runtime.trust import CONF, packages

NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
SEED = 2**32 - 1
LONGEST = 200  # characters; a file system takes 255 in a name
THREADS = 1024
SPLITS = ("train/", "val/", "test/")
LEFT_OUT = object()


class Decided(NamedTuple):
    value: Any
    why: str


STEPS = "a run is counted in trainer.max_steps, and only then is it done"
ORDER = "the order of the data is Facet's own, and exact when it is resumed"
# What Facet decides of Lightning's Trainer, or would be at odds with what it decides.
DECIDED = {
    **dict.fromkeys(("max_epochs", "min_epochs", "min_steps", "max_time", "fast_dev_run"), Decided(LEFT_OUT, STEPS)),
    **dict.fromkeys(("limit_train_batches", "overfit_batches"), Decided(LEFT_OUT, STEPS)),
    "reload_dataloaders_every_n_epochs": Decided(LEFT_OUT, ORDER),
    "use_distributed_sampler": Decided(False, ORDER),
    "check_val_every_n_epoch": Decided(None, "an epoch has no end here; trainer.val_check_interval counts steps"),
    "default_root_dir": Decided(LEFT_OUT, "a run writes into its folder below paths.runs"),
    "enable_checkpointing": Decided(LEFT_OUT, "callbacks.checkpoint=null leaves the best checkpoint out"),
    "barebones": Decided(LEFT_OUT, "what it takes away is what a run leaves behind"),
}


def missing_parts(cfg: DictConfig) -> list[str]:
    """Groups without which nothing can be asked about the rest; `~trainer` and `module=null` take one away."""
    wanted = ("paths", "logger", "trainer", *(() if cfg.get("study") else ("data", "module")))
    found = [name for name in wanted if not isinstance(cfg.get(name), DictConfig)]
    found += [] if isinstance(cfg.get("system_name"), str) else ["system_name"]
    told = [f"{name} is not there; expected what conf/ has for it: no run can do without." for name in found]
    if not isinstance(cfg.get("look"), DictConfig):
        told.append(
            "look= names no run; expected look=RUN, the id or folder of a finished run, or several with commas."
        )
    return told


def problems(cfg: DictConfig) -> list[str]:
    found = schema.problems(cfg)
    return found + system.asked(CHECKS, cfg) + system.asked(system.checks_of(cfg), cfg)


def seeds_are_seeds(cfg: DictConfig) -> Iterator[str]:
    """Lightning's and numpy's generators take 32 bits."""
    for path, node in schema.nodes(cfg):
        value = node.get("seed") if "seed" in node and not OmegaConf.is_missing(node, "seed") else None
        if isinstance(value, int) and SEED < value < 2**63 and not OmegaConf.is_interpolation(node, "seed"):
            yield f"{path}.seed is {value}; expected at most {SEED}.".lstrip(".")


def what_is_done_again(cfg: DictConfig) -> Iterator[str]:
    if cfg.replay is not None and (wrong := records.wrong_id("replay", cfg.replay)):
        yield wrong
    elif cfg.replay and cfg.logger.tracking_uri is None:
        yield f"replay={cfg.replay} with logger=none: expected the tracking server that keeps the run."
    several = [key for key, given in (("plan", cfg.plan), ("replay", cfg.replay), ("look", cfg.look.runs)) if given]
    if len(several) > 1:
        yield f"{' and '.join(several)} are given; expected one of them: they do different things with a run."


def looks_name_a_run(cfg: DictConfig) -> Iterator[str]:
    if cfg.look.own and not cfg.look.runs:
        yield f"look.text={cfg.look.own} without look=RUN: it is read by a finished run; expected the id or folder of one."


def hydra_starts_what_is_checked(cfg: DictConfig) -> Iterator[str]:
    """Its own ways to start a sweep and to name the folder of settings are not those that a run is found by again."""
    if cfg.hydra.get("mode") is not None:
        yield f"hydra.mode={cfg.hydra.mode.name}: expected -m before the overrides for a sweep, and nothing for a run."
    # Lightning tells every rank that it starts to write no settings: the first one does.
    if cfg.hydra.get("output_subdir") != ".hydra" and os.environ.get("LOCAL_RANK", "0") == "0":
        yield f"hydra.output_subdir is {cfg.hydra.output_subdir!r}; expected .hydra, where a run's settings are looked for."


def folders_have_names(cfg: DictConfig) -> Iterator[str]:
    for key in ("cache", "runs", "tracking"):
        if cfg.paths[key] == "":
            yield f"paths.{key} is empty; expected a folder."
    if not cfg.paths._get_node("run")._is_interpolation():
        yield f"paths.run is {cfg.paths.run}; expected it left as it is: paths.runs=FOLDER is where runs lie."


def threads_can_be_started(cfg: DictConfig) -> Iterator[str]:
    if cfg.threads > THREADS:
        yield f"threads is {cfg.threads}; expected at most {THREADS}, or 0: torch decides."
    if cfg.data.get("workers", 0) > THREADS:
        yield f"data.workers is {cfg.data.workers}; expected at most {THREADS}: each is a process."


def steps_are_counted(cfg: DictConfig) -> Iterator[str]:
    if cfg.trainer.max_steps < 1:
        yield f"trainer.max_steps is {cfg.trainer.max_steps}; expected at least 1: runs are counted in optimizer steps."


def trainer_keeps_to_the_steps(cfg: DictConfig) -> Iterator[str]:
    """What would train on other data or for another time than the rest of the config says, and be called done."""
    for key in cfg.trainer:
        if key in DECIDED and cfg.trainer[key] != DECIDED[key].value:
            yield f"trainer.{key} is {cfg.trainer[key]}; expected {_shown(DECIDED[key].value)}: {DECIDED[key].why}."


def _shown(value: Any) -> str:
    return "it left out" if value is LEFT_OUT else "null" if value is None else str(value).lower()


def numbers_of_the_trainer(cfg: DictConfig) -> Iterator[str]:
    """What Lightning divides by, or takes for something else than it says."""
    for key in ("val_check_interval", "accumulate_grad_batches", "num_nodes", "log_every_n_steps"):
        value = cfg.trainer.get(key)
        if value is not None and value <= 0:
            yield f"trainer.{key} is {value}; expected at least 1."
    interval = cfg.trainer.get("val_check_interval")
    if isinstance(interval, float) and not interval.is_integer():
        yield f"trainer.val_check_interval is {interval}; expected a whole number of steps: an epoch has no end here."
    for key in ("gradient_clip_val", "num_sanity_val_steps"):
        value = cfg.trainer.get(key)
        if value is not None and value < 0:
            yield f"trainer.{key} is {value}; expected at least 0."


def lightning_takes_them(cfg: DictConfig) -> Iterator[str]:
    """Lightning's own objections, from a Trainer that is built on the CPU and thrown away."""
    import pytorch_lightning as pl
    from hydra.utils import instantiate
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    given: Any = dict(instantiate(cfg.trainer)) if "_target_" in cfg.trainer else OmegaConf.to_container(cfg.trainer)
    # Where it runs is asked in `places`, and there may be no such machine here.
    elsewhere = devices.submitted(cfg) or cfg.trainer.accelerator != "cpu"
    if elsewhere:
        given |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true"}
        given["strategy"] = given["strategy"] if given.get("strategy") in ("ddp", "auto") else "auto"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pl.Trainer(logger=False, enable_checkpointing=False, **{**given, "enable_progress_bar": False})
        return
    except (MisconfigurationException, ValueError, TypeError) as error:
        told = " ".join(str(error).split())
    finally:
        logging.disable(logging.NOTSET)
    yield f"trainer is not one that Lightning takes: {told}"


def objective_is_logged(cfg: DictConfig) -> Iterator[str]:
    split, _, name = cfg.objective_metric.partition("/")
    if not name or split not in ("train", "val", "test", "moe", "prompt", "svco"):
        yield f"objective_metric is {cfg.objective_metric!r}; expected split/name such as val/ppl."


def a_search_leaves_the_test_set_alone(cfg: DictConfig) -> Iterator[str]:
    if cfg.hydra.runtime.choices.get("hydra/sweeper") == "search" and cfg.objective_metric.startswith("test/"):
        yield (
            f"hydra/sweeper=search would choose by objective_metric={cfg.objective_metric}, and the best trial's number be "
            f"no test any more; expected one of validation, as objective_metric=val/{cfg.objective_metric[5:]}."
        )


def metrics_are_spelled_right(cfg: DictConfig) -> Iterator[str]:
    """Of the splits, whose metrics have fixed names, and what is nearly one; packages of one's own log what they like."""
    if packages():
        return
    asked = {"objective_metric": [cfg.objective_metric], "shown_metrics": cfg.shown_metrics}
    asked |= {f"callbacks.{name}.monitor": [one.get("monitor")] for name, one in (cfg.callbacks or {}).items() if one}
    known = logged()
    for key, given in asked.items():
        for name in given:
            if not str(name).startswith(SPLITS) or any(name.startswith(one) for one in known):
                continue
            if near := nearest(name, list(known)):
                yield f"{key} is {name!r}, which no run logs{near}."


@cache
def logged() -> frozenset[str]:
    """Metrics of the splits that metric_names or conf/ speaks of."""
    words = [value for value in vars(metric_names).values() if isinstance(value, str)]
    words += [word for path in CONF.rglob("*.yaml") for word in re.findall(r"[a-z]+/\w+", path.read_text())]
    return frozenset(word for word in words if word.startswith(SPLITS))


def names_stay_inside(cfg: DictConfig) -> Iterator[str]:
    """Folders under runs/ are made of these names."""
    if not NAME.fullmatch(cfg.experiment_name) or ".." in cfg.experiment_name.split("/"):
        yield (
            f"experiment_name is {cfg.experiment_name!r}; expected words of letters, digits, '.', '_' and '-' with '/' "
            "between them, none of them '..': it names a folder under paths.runs."
        )
    elif max(map(len, cfg.experiment_name.split("/"))) > LONGEST:
        yield f"experiment_name has a word of more than {LONGEST} characters; expected a shorter one: it names a folder."


def batches_divide(cfg: DictConfig) -> Iterator[str]:
    from datamodules.order import micro_batches_per_forward

    if min(cfg.data.micro_batch, cfg.trainer.accumulate_grad_batches, cfg.trainer.get("num_nodes", 1)) < 1:
        return
    micro_batches_per_forward(
        global_batch=cfg.data.global_batch,
        micro_batch=cfg.data.micro_batch,
        accumulate=cfg.trainer.accumulate_grad_batches,
        ranks=devices.processes(cfg),
    )
    yield from ()


def callbacks_are_known(cfg: DictConfig) -> Iterator[str]:
    """One that is no mapping with `_target_` would be given to Lightning as it is."""
    for name in cfg.callbacks or ():
        one = cfg.callbacks[name]
        if one is not None and not (isinstance(one, DictConfig) and "_target_" in one):
            yield f"callbacks.{name} is {one!r}; expected null, which leaves it out, or a mapping with _target_."


CHECKS = (
    seeds_are_seeds,
    what_is_done_again,
    looks_name_a_run,
    hydra_starts_what_is_checked,
    folders_have_names,
    threads_can_be_started,
    devices.studies_keep_their_weights,
    slurm.can_be_submitted,
    at_once.can_be_made_at_once,
    batches_divide,
    steps_are_counted,
    trainer_keeps_to_the_steps,
    numbers_of_the_trainer,
    objective_is_logged,
    a_search_leaves_the_test_set_alone,
    metrics_are_spelled_right,
    names_stay_inside,
    callbacks_are_known,
)
