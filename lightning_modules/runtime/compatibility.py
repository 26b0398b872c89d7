"""Choices that are right one by one and do not go together: one check a function, each naming the keys at odds."""

import re
from collections.abc import Callable, Iterator

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.runtime import devices, slurm, system

NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


def problems(cfg: DictConfig) -> list[str]:
    """Messages of every check that fails, the project's and the system's. One whose keys this system has not is left out."""
    found = []
    for check in (*CHECKS, *system.checks_of(cfg).checks):
        try:
            found += list(check(cfg))
        except (AttributeError, KeyError, TypeError, OmegaConfBaseException):
            # Of a wrong type or missing, which the schema has reported, or not there in this system.
            continue
        except ValueError as error:
            found.append(str(error))
    return found


def steps_are_counted(cfg: DictConfig) -> Iterator[str]:
    if cfg.trainer.max_steps < 1:
        yield f"trainer.max_steps is {cfg.trainer.max_steps}; expected at least 1: runs are counted in optimizer steps."


def objective_is_logged(cfg: DictConfig) -> Iterator[str]:
    split, _, name = cfg.objective_metric.partition("/")
    if not name or split not in ("train", "val", "test", "moe", "prompt", "svco"):
        yield f"objective_metric is {cfg.objective_metric!r}; expected split/name such as val/ppl."


def names_stay_inside(cfg: DictConfig) -> Iterator[str]:
    """Folders under runs/ are made of these names."""
    if not NAME.fullmatch(cfg.experiment_name) or ".." in cfg.experiment_name.split("/"):
        yield (
            f"experiment_name is {cfg.experiment_name!r}; expected words of letters, digits, '.', '_' and '-' with '/' "
            "between them, none of them '..': it names a folder under paths.runs."
        )


def batches_divide(cfg: DictConfig) -> Iterator[str]:
    from datamodules.order import micro_batches_per_forward

    micro_batches_per_forward(
        global_batch=cfg.data.global_batch,
        micro_batch=cfg.data.micro_batch,
        accumulate=cfg.trainer.accumulate_grad_batches,
        ranks=devices.processes(cfg),
    )
    yield from ()


CHECKS: tuple[Callable[[DictConfig], Iterator[str]], ...] = (
    devices.machine_has_the_devices,
    devices.precision_is_there,
    devices.studies_keep_their_weights,
    slurm.can_be_submitted,
    batches_divide,
    steps_are_counted,
    objective_is_logged,
    names_stay_inside,
)
