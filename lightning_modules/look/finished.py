"""A finished run as the maker of its page gets it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from lightning_modules.look.page import LOOK, read


class Finished(NamedTuple):
    """cfg: the run's config for this machine. artifact: name -> where that folder or file of the run now lies (ValueError
    where the run has none). text: whether words of the data may stand on the page. own: a text of the user's."""

    name: str
    cfg: DictConfig
    metrics: dict[str, float]
    artifact: Callable[[str], Path]
    text: bool = True
    own: Path | None = None

    def export(self) -> Path:
        return self.artifact("export")

    def earlier(self) -> dict[str, Any] | None:
        """The page that the run made itself (`page.read`); it may know what is seen only while it trains."""
        try:
            return read(self.artifact(LOOK))
        except ValueError:
            return None
