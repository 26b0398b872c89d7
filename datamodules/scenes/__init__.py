"""Contrasting image pairs: rendered scenes with exact ground truth, emoji pictures, and MVC files."""

from datamodules.scenes.datamodule import MVCSource, PairsDataModule, SceneSource
from datamodules.scenes.emoji_source import EmojiSource

__all__ = ["EmojiSource", "MVCSource", "PairsDataModule", "SceneSource"]
