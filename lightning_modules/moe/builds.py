"""What of a mixture's config costs nothing to make (`runtime/preflight/building.py`)."""

from collections.abc import Callable
from typing import Any

from datamodules.corpus.datamodule import folder_corpus, hub_corpus


def of_folder(**given: Any) -> Any:
    """The data of a folder, whose domains have text in them."""
    data = folder_corpus(**given)
    data.source.description()
    return data


BUILDS: dict[str, Callable[..., Any]] = {
    "datamodules.corpus.folder_corpus": of_folder,
    "datamodules.corpus.hub_corpus": hub_corpus,
}
