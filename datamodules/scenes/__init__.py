"""Contrasting image pairs: rendered scenes with exact ground truth, emoji pictures, and MVC files."""

from lightning_modules.common import lazy

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
