"""Classification tasks for prompts: a controlled language, real text, and any dataset on disk or on the hub."""

from lightning_modules.common import lazy

__getattr__ = lazy.names(
    __name__,
    {"Hub": "hub", "Hubs": "hub", "Language": "language", "TaskDataModule": "datamodule", "Vader": "vader"},
)
