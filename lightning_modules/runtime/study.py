"""A study: an analysis that stands in the place of training. `study._target_` names it; the rest of a run is the same.

It gets run directory, MLflow run, provenance, sweeps and `result.json` like any run. What is costly in it (a backbone, a
prompt) it keeps by content with `made.made`, so a study that was killed goes on where it was. With a method `needs`, which
lists all that it asks for, it can be planned and tells how far it is.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from lightning_modules.common import tables
from lightning_modules.common.making import Thing
from lightning_modules.common.say import say
from lightning_modules.look.page import LOOK, can_be_drawn, write
from lightning_modules.runtime.tracking import Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Desk:
    """Where a study puts what it finds: figures, tables and metrics of its run."""

    def __init__(
        self,
        *,
        folder: Path,
        tracker: Tracker | None = None,
        page: bool = True,
        text: bool = True,
        cache: Path | None = None,
    ) -> None:
        """page: whether it takes a page; text: whether words and pictures of the data may stand on one.

        cache: where what every page needs is kept between runs.
        """
        self.folder, self.tracker, self.wants_page, self.text = folder, tracker, page, text
        self.cache = cache

    def say(self, text: str) -> None:
        say(text)

    def figure(self, name: str, figure: "Figure") -> Path:
        """`figures/NAME.png`; logged as an artifact when the run ends."""
        path = self._place("figures", f"{name}.png")
        from lightning_modules.common.style import save

        save(figure, path)
        return path

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], *, show: bool = True) -> Path:
        """`tables/NAME.csv` with every digit and `tables/NAME.md` to read; printed unless `show` is False.

        The keys of the rows, the same and in the same order in all, are the columns.
        """
        path = self._place("tables", f"{name}.csv")
        columns = list(rows[0])
        assert all(list(row) == columns for row in rows), name
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        readable = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
        path.with_suffix(".md").write_text(tables.markdown(columns, readable))
        if show:
            tables.show(columns, readable, title=name.replace("_", " "), console=Console(stderr=True))
        return path

    def page(self, kind: str, title: str, make: Callable[[], dict[str, Any]]) -> None:
        """`look.html`, drawn from what `make` returns of the run by assets/KIND.js of the room `look`; made if wanted."""
        if self.wants_page and can_be_drawn():
            write(self.folder / LOOK, kind=kind, title=title, data={"runs": [make()]}, cache=self.cache)

    def metrics(self, values: dict[str, float], *, step: int = 0) -> None:
        if self.tracker:
            self.tracker.log_metrics(values, step)

    def _place(self, kind: str, name: str) -> Path:
        (self.folder / kind).mkdir(parents=True, exist_ok=True)
        return self.folder / kind / name


class Study(Protocol):
    """What `study._target_` builds."""

    def prepare(self) -> None:
        """Fetch or make what the fingerprint needs."""

    def fingerprint(self) -> dict[str, str]:
        """Short hashes of what the result depends on, `data` among them."""

    def run(self, desk: Desk) -> dict[str, float]:
        """Do it; metrics by name."""


def needs(study: Study) -> list[Thing]:
    """What it is going to train or make, in order, where it can tell: `needs()` of a study is optional."""
    return study.needs() if hasattr(study, "needs") else []
