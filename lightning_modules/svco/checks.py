"""What of an S-VCO config is wrong: sizes that do not divide, and models, pairs and benchmarks that are not there.

A base model is pretrained in minutes where it is not kept; all of this is known before.
"""

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from datamodules.order import micro_batches_per_forward
from lightning_modules.common.choices import nearest
from lightning_modules.common.files import beside
from lightning_modules.runtime.devices import processes

OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "svco": {
        "model": ("vlm_tiny", "vlm_emoji", "vlm"),
        "data": ("scenes", "emoji", "mvc", "preferences"),
        "debug": (),
    }
}
PATCH = 8  # pixels of the embedded model's, and of a rendered scene's grid


def sizes_divide(cfg: DictConfig) -> Iterator[str]:
    if cfg.model.get("width") and cfg.model.width % cfg.model.heads:
        yield f"model.width is {cfg.model.width}; expected a multiple of model.heads, which is {cfg.model.heads}."
    if "pixels" in cfg.model and (cfg.data.pixels % PATCH or cfg.data.pixels < PATCH):
        near = max(PATCH, round(cfg.data.pixels / PATCH) * PATCH)
        yield f"data.pixels is {cfg.data.pixels}; expected a multiple of {PATCH}; the nearest is {near}."


def batches_divide(cfg: DictConfig) -> Iterator[str]:
    """Of a training; a study's arms are one process's, and say it themselves."""
    batch, accumulate = cfg.data.global_batch, cfg.trainer.accumulate_grad_batches
    if not cfg.study and accumulate > 0:
        micro_batches_per_forward(global_batch=batch, micro_batch=1, accumulate=accumulate, ranks=processes(cfg))
    yield from ()


def arms_are_there(cfg: DictConfig) -> Iterator[str]:
    if not cfg.study.objectives:
        yield "study.objectives is empty; expected objectives by name: +objective@study.objectives.NAME=OPTION adds one."
    for name, one in cfg.study.objectives.items():
        if one is None:
            yield f"study.objectives.{name} is null; expected an objective; ~study.objectives.{name} takes it out."
    if not cfg.study.learning_rates:
        yield "study.learning_rates is empty; expected at least one."


def pairs_are_there(cfg: DictConfig) -> Iterator[str]:
    yield from _missing("data.source", cfg.data.source)


def candidates_are_there(cfg: DictConfig) -> Iterator[str]:
    yield from _missing("study.candidates", cfg.study.candidates)


def _missing(name: str, source: DictConfig) -> Iterator[str]:
    for key, there in (("file", Path.is_file), ("images", Path.is_dir), ("archive", Path.is_file)):
        if source.get(key) and not there(place := Path(source[key]).expanduser()):
            kind = "folder" if key == "images" else "file"
            yield f"{name}.{key}={source[key]}: there is no such {kind}{nearest(place.name, beside(place))}."


def benchmarks_are_there(cfg: DictConfig) -> Iterator[str]:
    for name in ("pope", "mmvp", "mmhal"):
        one, form = cfg.study[name], "file: .."
        if not one:
            continue
        keys = ["images", "file"]
        if name == "pope" and "file" not in one:
            keys = ["images", *(key for key in one if key != "images")]
            form = "random: .., popular: .., adversarial: .."
        for key in keys if len(keys) > 1 else [*keys, "random"]:
            there = Path.is_dir if key == "images" else Path.is_file
            if key not in one or not there(Path(one[key]).expanduser()):
                yield f"study.{name}.{key}={one.get(key)} is not there; expected study.{name}={{{form}, images: FOLDER}}."


CHECKS = (sizes_divide, batches_divide, arms_are_there)
PLACES = (pairs_are_there, candidates_are_there, benchmarks_are_there)
