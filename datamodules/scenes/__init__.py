"""Contrasting image pairs: rendered scenes with exact ground truth, emoji pictures, and MVC files."""

from datamodules.scenes.datamodule import MVCSource, PairsDataModule, SceneSource

__all__ = ["MVCSource", "PairsDataModule", "SceneSource"]
