"""Studies of prompt transfer as their constructors take them, before their language models are there."""

from lightning_modules.skill_neurons.builds import studied
from lightning_modules.transfer.across import Project, Tpt
from lightning_modules.transfer.studies import Indicators, Suggest, Transfer

BUILDS = studied(Transfer, Indicators, Suggest, Project, Tpt)
