"""Text of several domains as memory-mapped tokens."""

from lightning_modules.common import lazy

__getattr__ = lazy.names(
    __name__,
    {
        "CorpusDataModule": "datamodule",
        "EmbeddedSource": "sources",
        "FolderSource": "folder",
        "HubSource": "hub",
        "SyntheticSource": "synthetic",
        "folder_corpus": "datamodule",
        "hub_corpus": "datamodule",
    },
)
