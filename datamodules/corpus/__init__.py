"""Text of several domains as memory-mapped tokens."""

from datamodules.corpus.datamodule import CorpusDataModule
from datamodules.corpus.factories import folder_corpus, hub_corpus
from datamodules.corpus.folder import FolderSource
from datamodules.corpus.sources import EmbeddedSource, HubSource
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
