"""Classification tasks for prompts: a controlled language, real text, and any dataset on disk or on the hub."""

from typing import TYPE_CHECKING

from lightning_modules.common import lazy

if TYPE_CHECKING:
    from datamodules.tasks.datamodule import TaskDataModule
    from datamodules.tasks.hub import Hub, Hubs
    from datamodules.tasks.language import Language
    from datamodules.tasks.vader import Vader

__all__ = ["Hub", "Hubs", "Language", "TaskDataModule", "Vader"]

__getattr__ = lazy.names(
    __name__,
    {"Hub": "hub", "Hubs": "hub", "Language": "language", "TaskDataModule": "datamodule", "Vader": "vader"},
)
