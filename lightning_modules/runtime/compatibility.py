"""Choices that are right one by one and do not go together: one check a function, each naming the keys at odds."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


def problems(cfg: DictConfig) -> list[str]:
    """Messages of every check that fails. A check that needs a key which this system has not is left out."""
    found = []
    for check in CHECKS:
        try:
            found += list(check(cfg))
        except (AttributeError, KeyError, TypeError, OmegaConfBaseException):
            # Of a wrong type or missing, which the schema has reported, or not there in this system.
            continue
        except ValueError as error:
            found.append(str(error))
    return found


def _processes(cfg: DictConfig) -> int:
    devices = cfg.trainer.devices
    local = devices if isinstance(devices, int) else len(devices) if not isinstance(devices, str) else 1
    return local * cfg.trainer.get("num_nodes", 1)


def batches_divide(cfg: DictConfig) -> Iterator[str]:
    from datamodules.order import micro_batches_per_forward

    micro_batches_per_forward(
        global_batch=cfg.data.global_batch,
        micro_batch=cfg.data.micro_batch,
        accumulate=cfg.trainer.accumulate_grad_batches,
        ranks=_processes(cfg),
    )
    yield from ()


def layout_is_known(cfg: DictConfig) -> Iterator[str]:
    from datamodules.order import LAYOUTS
    from lightning_modules.choices import check_choice

    check_choice("data.layout", cfg.data.layout, LAYOUTS)
    check_choice("balance.layer_reduction", cfg.balance.layer_reduction, ("mean", "sum"))
    yield from ()


def block_divides(cfg: DictConfig) -> Iterator[str]:
    block, micro = cfg.balance.block, cfg.data.micro_batch
    if block is None:
        return
    forward = cfg.data.global_batch // (cfg.trainer.accumulate_grad_batches * _processes(cfg))
    if max(block, micro) % min(block, micro) or forward % block:
        fitting = [b for b in range(1, forward + 1) if forward % b == 0 and max(b, micro) % min(b, micro) == 0]
        near = min(fitting, key=lambda b: abs(b - block))
        yield (
            f"balance.block is {block} sequences; expected a divisor or a multiple of data.micro_batch ({micro}) that "
            f"divides the {forward} sequences of one forward; the nearest is {near}."
        )


def shape_fits(cfg: DictConfig) -> Iterator[str]:
    from lightning_modules.moe.models import check_shape

    names = ("family", "experts", "top_k", "hidden_size", "heads", "kv_heads")
    check_shape(**{name: cfg.model[name] for name in names})
    yield from ()


def bias_has_a_router(cfg: DictConfig) -> Iterator[str]:
    if cfg.balance.scope == "aux_free" and cfg.model.family != "deepseek_v3" and cfg.model.pretrained is None:
        yield (
            f"balance=aux_free needs routers with a correction bias, which model.family={cfg.model.family} has not; "
            "the nearest is model.family=deepseek_v3."
        )


def positions_suffice(cfg: DictConfig) -> Iterator[str]:
    if cfg.data.seq_len > cfg.model.max_positions and cfg.model.pretrained is None:
        yield (
            f"data.seq_len is {cfg.data.seq_len} tokens; expected at most model.max_positions, which is "
            f"{cfg.model.max_positions}."
        )


def schedule_is_in_order(cfg: DictConfig) -> Iterator[str]:
    start, stop = cfg.balance.from_step, cfg.balance.until_step
    if stop is not None and stop <= start:
        yield f"balance.until_step is {stop}; expected more than balance.from_step, which is {start}."


def steps_are_counted(cfg: DictConfig) -> Iterator[str]:
    if cfg.trainer.max_steps < 1:
        yield f"trainer.max_steps is {cfg.trainer.max_steps}; expected at least 1: runs are counted in optimizer steps."


def paths_are_there(cfg: DictConfig) -> Iterator[str]:
    if cfg.data.get("path") is not None and not Path(cfg.data.path).expanduser().is_dir():
        yield f"data.path={cfg.data.path} is no folder; expected one with a sub-folder of text per domain."
    pretrained = cfg.model.pretrained
    if pretrained is not None and not (Path(pretrained) / "config.json").is_file():
        yield (
            f"model.pretrained={pretrained}: no config.json there; expected a folder written by save_pretrained, such as "
            "the export/ folder of a finished run."
        )


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


CHECKS: tuple[Callable[[DictConfig], Iterator[str]], ...] = (
    batches_divide,
    layout_is_known,
    block_divides,
    shape_fits,
    bias_has_a_router,
    positions_suffice,
    schedule_is_in_order,
    steps_are_counted,
    paths_are_there,
    objective_is_logged,
    names_stay_inside,
)
