"""Contrasting image pairs: rendered scenes with exact ground truth, emoji pictures, and MVC files."""

from typing import TYPE_CHECKING

from lightning_modules.common import lazy

if TYPE_CHECKING:
    from datamodules.scenes.datamodule import PairsDataModule, SceneSource
    from datamodules.scenes.emoji_source import EmojiSource
    from datamodules.scenes.file_source import MVCSource, PreferenceSource

__all__ = ["EmojiSource", "MVCSource", "PairsDataModule", "PreferenceSource", "SceneSource"]

__getattr__ = lazy.names(
    __name__,
    {
        "EmojiSource": "emoji_source",
        "MVCSource": "file_source",
        "PairsDataModule": "datamodule",
        "PreferenceSource": "file_source",
        "SceneSource": "datamodule",
    },
)
