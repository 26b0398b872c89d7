"""Classification tasks for prompts: a controlled language, real text, and any dataset on disk or on the hub."""

from datamodules.tasks.datamodule import TaskDataModule
from datamodules.tasks.hub import Hub, Hubs
from datamodules.tasks.language import Language
from datamodules.tasks.vader import Vader

__all__ = ["Hub", "Hubs", "Language", "TaskDataModule", "Vader"]
