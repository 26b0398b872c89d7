"""Studies of prompt transfer as their constructors take them, before their language models are there."""

from collections.abc import Callable
from typing import Any

from lightning_modules.skill_neurons.builds import studied
from lightning_modules.transfer.across import Project, Tpt
from lightning_modules.transfer.studies import Indicators, Suggest, Transfer

BUILDS: dict[str, Callable[..., Any]] = {
    "lightning_modules.transfer.studies.Transfer": studied(Transfer),
    "lightning_modules.transfer.studies.Indicators": studied(Indicators),
    "lightning_modules.transfer.studies.Suggest": studied(Suggest),
    "lightning_modules.transfer.across.Project": studied(Project),
    "lightning_modules.transfer.across.Tpt": studied(Tpt),
}
