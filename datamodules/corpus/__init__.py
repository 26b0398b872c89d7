"""Text of several domains as memory-mapped tokens."""

from typing import TYPE_CHECKING

from lightning_modules.common import lazy

if TYPE_CHECKING:
    from datamodules.corpus.datamodule import CorpusDataModule
    from datamodules.corpus.factories import folder_corpus, hub_corpus
    from datamodules.corpus.folder import FolderSource
    from datamodules.corpus.hub import HubSource
    from datamodules.corpus.sources import EmbeddedSource
    from datamodules.corpus.synthetic import SyntheticSource

__all__ = [
    "CorpusDataModule",
    "EmbeddedSource",
    "FolderSource",
    "HubSource",
    "SyntheticSource",
    "folder_corpus",
    "hub_corpus",
]

__getattr__ = lazy.names(
    __name__,
    {
        "CorpusDataModule": "datamodule",
        "EmbeddedSource": "sources",
        "FolderSource": "folder",
        "HubSource": "hub",
        "SyntheticSource": "synthetic",
        "folder_corpus": "factories",
        "hub_corpus": "factories",
    },
)
