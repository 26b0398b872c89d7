"""What of a prompt config costs nothing to make, and what stands in for the rest (`runtime/preflight/building.py`)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from datamodules.tasks.datamodule import VERBALISERS, TaskDataModule
from datamodules.tasks.hub import Hub, Hubs
from datamodules.tasks.language import Language
from datamodules.tasks.pretraining import PretrainingDataModule
from datamodules.tasks.vader import Vader
from datamodules.tasks.words import tokens_of
from lightning_modules.common.choices import check_choice
from lightning_modules.prompt.backbones import HubBackbone, LanguageBackbone
from lightning_modules.prompt.checks import said
from lightning_modules.prompt.prompt_file import PromptFile
from lightning_modules.prompt.prompts import Prompts, refuse_no_place
from lightning_modules.prompt.tuners import INITS, Adapter, BitFit, FullFineTuning, LoRA, SoftPrompt
from lightning_modules.runtime.preflight.building import UNKNOWN, named


def choices_are_known(cfg: DictConfig) -> Iterator[str]:
    yield from said(check_choice, "prompt.init", cfg.prompt.init, INITS)
    if cfg.data.verbaliser is not None:
        yield from said(check_choice, "data.verbaliser", cfg.data.verbaliser, VERBALISERS)


def prompt_has_its_place(cfg: DictConfig) -> Iterator[str]:
    """Of a run of tuning; `Prompts` of a study see to it themselves."""
    if cfg.get("study") or not cfg.tuner._target_.endswith(f".{SoftPrompt.__name__}"):
        return
    if cfg.data.template is not None:
        yield from said(refuse_no_place, cfg.data.template)
    if cfg.tuner.length != (kept := cfg.data.prompt_length):
        yield f"tuner.length is {cfg.tuner.length}; expected data.prompt_length, which is {kept}: prompt.length sets both."


CHECKS = (choices_are_known, prompt_has_its_place)


class Unfetched:
    """Stands in for MiniLM, whose wheel may have to be fetched."""

    kind, max_positions = "encoder", 512

    def __init__(self, **_: Any) -> None: ...

    def needs(self) -> list[Any]:
        return []


def hub_backbone(**given: Any) -> Any:
    """Of a folder; a name on the hub is asked of the network when the run has begun."""
    return HubBackbone(**given) if Path(given["name"]).expanduser().is_dir() else UNKNOWN


def task_data(**given: Any) -> TaskDataModule:
    """The data of a task whose name, template and words are right for the backbone, as far as that costs nothing."""
    data = TaskDataModule(**given)
    refuse_task(data)
    return data


def refuse_task(data: TaskDataModule, key: str = "task") -> None:
    """ValueError for a name that the source has not, or a template that leaves the text no room.

    A task of the controlled language is drawn, which takes a moment; others have to be read, or fetched.
    """
    check_choice(key, data.name, data.source_of_tasks.names())
    if isinstance(data.backbone, LanguageBackbone):
        data.template.encode([""], data.tokenizer)
        if isinstance(data.source_of_tasks, Language):
            _ = data.common
        if isinstance(data.source_of_tasks, Hub | Hubs) and data.verbaliser != "prototype":
            words = data.source_of_tasks.label_words(data.name)
            tokens_of(words, data.tokenizer, task=data.name, single=data.verbaliser == "token")


def prompts(**given: Any) -> Prompts:
    """`Prompts` whose start is one that there is."""
    made = Prompts(**given)
    start(made.soft(seed=0))
    return made


def start(tuner: SoftPrompt) -> SoftPrompt:
    """ValueError where its file is not there, or of another length."""
    if tuner.init == "file":
        found = PromptFile.load(tuner.file).weight
        if len(found) != tuner.length:
            raise ValueError(
                f"prompt.file={tuner.file} holds {len(found)} prompt tokens; expected prompt.length={tuner.length}; "
                f"set it to {len(found)}."
            )
    if tuner.init == "text" and not str(tuner.text).strip():
        raise ValueError(f"prompt.text is {tuner.text!r}; expected at least one word.")
    return tuner


def soft_prompt(**given: Any) -> SoftPrompt:
    return start(SoftPrompt(**given))


BUILDS: dict[str, Callable[..., Any]] = {
    "datamodules.tasks.Language": Language,
    "datamodules.tasks.Vader": Vader,
    "datamodules.tasks.Hub": Hub,
    "datamodules.tasks.Hubs": Hubs,
    "datamodules.tasks.TaskDataModule": task_data,
    "lightning_modules.prompt.backbones.MiniLM": Unfetched,
    "lightning_modules.prompt.backbones.HubBackbone": hub_backbone,
    "lightning_modules.prompt.prompts.Prompts": prompts,
    "lightning_modules.prompt.tuners.SoftPrompt": soft_prompt,
    **named(PretrainingDataModule, LanguageBackbone, BitFit, Adapter, LoRA, FullFineTuning),
}
