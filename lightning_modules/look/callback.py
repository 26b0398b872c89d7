"""What the callbacks that write a run's page share."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.look.page import LOOK, can_be_drawn, write


class PageCallback(pl.Callback):
    """`<folder>/look.html`, written by the first process.

    text: False keeps every word and picture of the data out of it. name: how the page calls the run. page: False makes none.
    cache: where what every page needs is kept between runs.
    """

    def __init__(
        self, *, folder: str, name: str = "this run", text: bool = True, page: bool = True, cache: str | None = None
    ) -> None:
        self.folder, self.name, self.text, self.page = Path(folder), name, text, page
        self.cache = Path(cache) if cache else None

    def wants(self, trainer: pl.Trainer) -> bool:
        """Whether this process makes a page; it is told where the machine cannot draw one."""
        return self.page and trainer.is_global_zero and can_be_drawn()

    def write(self, found: dict[str, Any], *, kind: str, title: str) -> None:
        write(self.folder / LOOK, kind=kind, title=title, data={"runs": [found]}, cache=self.cache)
