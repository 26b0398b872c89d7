"""What of a prompt config is wrong: tasks and words that are not there, prompts too long, files that are missing.

All of it would also be found later: after minutes, where a language model has to be pretrained first.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightning_modules.common.bounds import Count, Positive, Share, Weight, Whole
from lightning_modules.common.choices import check_choice, nearest
from lightning_modules.common.files import beside, is_path
from lightning_modules.runtime import known

# Ends of names that are files; `organisation/model` is a name on the hub.
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".gz")


def prompt(*, length: Count, init: str, text: str | None, file: str | None, from_run: str | None) -> None:
    """The keys of `prompt`, which tuner and studies take."""


def tuning(
    *, steps: Count, batch: Count, lr: Positive, warmup_steps: Whole, min_lr_ratio: Share, weight_decay: Weight
) -> None:
    """The keys of `tuning`, of a run and of every prompt that a study trains."""


OPTIONS = {
    "prompt": {"data": ("task", "task_vader", "task_hub", "task_hubs")},
    "pretraining": {"data": ("language",)},
}
LANGUAGE = "datamodules.tasks.Language"
# Source of tasks -> the module that names them in RECIPES.
BY_HEART = {
    LANGUAGE: "datamodules.tasks.language",
    "datamodules.tasks.Vader": "datamodules.tasks.vader",
}

PLAIN: dict[str, Callable[..., Any]] = {"prompt": prompt, "tuning": tuning}


def heads_divide(cfg: DictConfig) -> Iterator[str]:
    """Of every backbone that is made here."""
    for name in ("backbone", "source_backbone"):
        one = cfg.get(name)
        if one is not None and "heads" in one and one.hidden_size % one.heads:
            yield f"{name}.hidden_size is {one.hidden_size}; expected a multiple of {name}.heads, which is {one.heads}."


def backbone_is_there(cfg: DictConfig) -> Iterator[str]:
    """Of what is a path, not a hub name."""
    for key in ("backbone", "source_backbone"):
        name = (cfg.get(key) or {}).get("name")
        if name and is_path(name) and not (Path(name).expanduser() / "config.json").is_file():
            yield (
                f"{key}.name={name}: no config.json there; expected a folder written by save_pretrained, such as the "
                "export/ folder of a finished run, or a hub name."
            )


def dataset_is_there(cfg: DictConfig) -> Iterator[str]:
    """Of what is a file or a folder, not a hub name."""
    source = cfg.data.source
    for key, given in {
        "data.source": source,
        **{f"data.source.tasks.{n}": s for n, s in source.get("tasks", {}).items()},
    }.items():
        name = given.get("dataset")
        looks = name and (is_path(name) or name.lower().endswith(FILES))
        if looks and not Path(name).expanduser().exists():
            place = Path(name).expanduser()
            near = nearest(place.name, beside(place))
            yield f"{key}.dataset={name} is not there{near}; expected a file, a folder or a hub name."


def prompt_of_a_run_is_known(cfg: DictConfig) -> Iterator[str]:
    uri = str(cfg.logger.get("tracking_uri") or "")
    given = {"prompt.from_run": [cfg.prompt.from_run]}
    given |= {f"prompts.runs.{task}": list(runs) for task, runs in (cfg.prompts.runs or {}).items()}
    for key, runs in given.items():
        yield from filter(None, (known.problem(uri, key, str(run)) for run in runs if run))


def _source(cfg: DictConfig) -> str:
    return str((cfg.data.get("source") or {}).get("_target_"))


def asked(cfg: DictConfig) -> list[tuple[str, str]]:
    """(key, name) of every task that a config names."""
    if cfg.get("study"):
        return [("study.tasks", name) for name in cfg.study.get("tasks") or ()]
    return [("task", cfg.task)]


def said(check: Callable[..., Any], *given: Any) -> Iterator[str]:
    """What `check` finds wrong of what it is given."""
    try:
        check(*given)
    except ValueError as error:
        yield str(error)


def tasks_are_known(cfg: DictConfig) -> Iterator[str]:
    """Of sources that know their tasks by heart. Others are asked when they are built, which takes torch."""
    module = BY_HEART.get(_source(cfg))
    if module is None:
        return
    for key, name in asked(cfg):
        yield from said(check_choice, key, name, import_module(module).RECIPES)


def agreement_is_taught(cfg: DictConfig) -> Iterator[str]:
    """Where a task of the controlled language asks for it."""
    if _source(cfg) != LANGUAGE or cfg.data.source.agreement:
        return
    language = import_module(BY_HEART[LANGUAGE])
    for key, name in asked(cfg):
        if name in language.RECIPES and language.RECIPES[name].skill in language.AGREEMENTS:
            yield (
                f"{key}: {name} asks whether two latents agree, which nothing teaches at language.agreement=0; "
                "expected it above 0, as language.agreement=0.2."
            )


CHECKS = (heads_divide, tasks_are_known, agreement_is_taught)
PLACES = (backbone_is_there, dataset_is_there, prompt_of_a_run_is_known)
