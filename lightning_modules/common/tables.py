"""Tables of runs: mean and confidence interval over seeds, on the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Estimate(NamedTuple):
    """Mean of `n` seeds with the half width of its confidence interval; nan for a single seed."""

    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 3
        interval = f" ± {self.half_width:.{digits}f}" if self.n > 1 else ""
        return f"{self.mean:.{digits}f}{interval}"


def mean_ci(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Student's t interval of the mean over independent seeds."""
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return Estimate(float(array.mean()) if len(array) else float("nan"), float("nan"), len(array))
    # Of scipy.stats, which takes seconds to import, its t.ppf is this function.
    from scipy.special import stdtrit

    spread = array.std(ddof=1) / np.sqrt(len(array))
    return Estimate(float(array.mean()), float(stdtrit(len(array) - 1, 0.5 + confidence / 2) * spread), len(array))


def by_seeds(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], shown: Mapping[str, str]
) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows): a row for every setting, its runs' `metrics` as mean and interval; `shown`: metric -> heading."""
    rows = [
        [name, len(runs), *(mean_ci([r["metrics"][m] for r in runs if m in r["metrics"]]) for m in shown)]
        for name, runs in groups.items()
    ]
    return ["setting", "seeds", *shown.values()], rows


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A GitHub table; everything but the first column is right-aligned."""
    lines = [" | ".join(columns), " | ".join(["---"] + ["---:"] * (len(columns) - 1))]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def terminal(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> Table:
    """What stands in it is text: rich would take `[a,b]`, a list in an override, for its own markup and leave it out."""
    table = Table(title=Text(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def show(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", console: Console | None = None
) -> None:
    """Print a table without breaking a cell: as wide as it is where there is no terminal, on a narrow one in parts.

    Each part repeats the first column. Only a cell that is wider than the terminal itself is folded.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _width(console, terminal(columns, rows, title=title)))
    parts, part = [], [0]
    for column in range(1, len(columns)):
        wider = [*part, column]
        if len(part) > 1 and _width(console, _only(wider, columns, rows)) > console.width:
            parts.append(part)
            wider = [0, column]
        part = wider
    for number, shown in enumerate([*parts, part]):
        console.print(_only(shown, columns, rows, title="" if number else title))


def _only(part: Sequence[int], columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> Table:
    return terminal([columns[i] for i in part], [[row[i] for i in part] for row in rows], title=title)


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def clock(seconds: float) -> str:
    """`1:05` for 65 seconds, `1:02:03` above an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
