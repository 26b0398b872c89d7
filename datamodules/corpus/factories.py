"""What `data=corpus_folder` and `data=corpus_hub` instantiate: the datamodule with the source at the top level."""

from typing import Any

from datamodules.corpus.datamodule import CorpusDataModule
from datamodules.corpus.folder import FolderSource
from datamodules.corpus.hub import HubSource


def folder_corpus(*, path: str, field: str = "text", **settings: Any) -> CorpusDataModule:
    """A user's own text in a folder of domain folders."""
    return CorpusDataModule(source=FolderSource(path=path, field=field), **settings)


def hub_corpus(*, hub: dict[str, dict[str, Any]], **settings: Any) -> CorpusDataModule:
    """Hugging Face datasets, one entry per domain."""
    return CorpusDataModule(source=HubSource(domains=hub), **settings)
