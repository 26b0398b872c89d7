"""Contrasting image pairs: rendered scenes with exact ground truth, emoji pictures, and MVC files."""

from datamodules.scenes.datamodule import PairsDataModule, SceneSource
from datamodules.scenes.emoji_source import EmojiSource
from datamodules.scenes.file_source import MVCSource, PreferenceSource

__all__ = ["EmojiSource", "MVCSource", "PairsDataModule", "PreferenceSource", "SceneSource"]
