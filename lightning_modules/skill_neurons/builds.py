"""Studies of skill neurons as their constructors take them, before a language model is there."""

from collections.abc import Callable
from typing import Any

from lightning_modules.common.choices import check_choice
from lightning_modules.prompt import builds
from lightning_modules.prompt.backbones import LanguageBackbone
from lightning_modules.skill_neurons.origin import Origin
from lightning_modules.skill_neurons.perturb import Perturb
from lightning_modules.skill_neurons.prompt_study import PromptStudy
from lightning_modules.skill_neurons.prune import Prune
from lightning_modules.skill_neurons.studies import SkillNeurons


def studied(kind: type[PromptStudy]) -> Callable[..., PromptStudy]:
    """Builds a study, and asks of each of its tasks whether there is such a one and whether it fits the backbone."""

    def make(**given: Any) -> PromptStudy:
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

    return make


BUILDS: dict[str, Callable[..., Any]] = {
    "lightning_modules.skill_neurons.studies.SkillNeurons": studied(SkillNeurons),
    "lightning_modules.skill_neurons.perturb.Perturb": studied(Perturb),
    "lightning_modules.skill_neurons.origin.Origin": studied(Origin),
    "lightning_modules.skill_neurons.prune.Prune": studied(Prune),
}
