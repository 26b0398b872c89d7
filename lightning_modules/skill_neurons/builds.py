"""Studies of skill neurons as their constructors take them, before a language model is there."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_modules.common.choices import check_choice
from lightning_modules.prompt import builds
from lightning_modules.prompt.backbones import LanguageBackbone
from lightning_modules.runtime.preflight.building import named
from lightning_modules.skill_neurons.origin import Origin
from lightning_modules.skill_neurons.perturb import Perturb
from lightning_modules.skill_neurons.prompt_study import PromptStudy
from lightning_modules.skill_neurons.prune import Prune
from lightning_modules.skill_neurons.studies import SkillNeurons


def studied(*kinds: type[PromptStudy]) -> dict[str, Callable[..., PromptStudy]]:
    """`BUILDS` of studies: builds one, and asks of each of its tasks whether it is there and fits the backbone."""
    return {name: partial(_studied, kind) for name, kind in named(*kinds).items()}


def _studied(kind: type[PromptStudy], **given: Any) -> PromptStudy:
    if given.get("tasks") == []:
        raise ValueError("study.tasks is empty; expected names, or null for all.")
    for task in given.get("tasks") or ():
        check_choice("study.tasks", task, given["prompts"].source.names())
    study = kind(**given)
    if not study.tasks:
        raise ValueError("study.tasks is empty; expected names, or null for all.")
    if isinstance(study.prompts.spec, LanguageBackbone):
        builds.refuse_task(study.prompts.data(study.tasks[0]), "study.tasks")
    return study


BUILDS = studied(SkillNeurons, Perturb, Origin, Prune)
