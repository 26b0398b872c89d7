"""One look for every figure: no pyplot and no global state, so figures can be drawn in any thread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_modules.common.tables import mean_ci

# Okabe and Ito's colours stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
# Beside a colour, so that a figure is read in grey too.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
SEQUENTIAL = "Blues"
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "axes.axisbelow": True,
    # Read when figure and axes are made: what is read later, of titles, legends or saving, is said where it is drawn.
    "figure.dpi": 150,
}


def panels(
    rows: int, columns: int, *, size: tuple[float, float], title: str = "", **options: Any
) -> tuple[Figure, Any]:
    """A figure of rows x columns axes, always a 2-D array; `size` in inches is that of one panel."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.5 * bool(title)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        if title:
            figure.suptitle(title, fontsize=10.5)
    return figure, axes


def save(figure: Figure, path: Path, *, metadata: Mapping[str, Any] | None = None) -> None:
    """As a PNG. It is laid out and drawn once; `figure.savefig` draws all of it twice."""
    FigureCanvasAgg(figure).print_png(path, metadata=metadata)


def grid(count: int, most: int, *, size: tuple[float, float], title: str = "", **options: Any) -> tuple[Figure, Any]:
    """`panels` for `count` things, at most `most` beside each other; the places that the last row leaves are blank."""
    columns = min(most, count)
    figure, axes = panels(-(-count // columns), columns, size=size, title=title, **options)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, axes


def lowest(axes: Any, count: int) -> Any:
    """Of a grid of `count` the axes that end a column, also where the last row is not full."""
    return axes.flat[max(0, count - axes.shape[1]) : count]


def band(
    axis: Axes, values: Mapping[Any, Sequence[float]], *, within: tuple[float, float] | None = None, **look: Any
) -> None:
    """A line of means over seeds or tasks by place, their 95% intervals as a band that goes no further than `within`."""
    places = sorted(values)
    found = [mean_ci(values[place]) for place in places]
    middle = np.array([f.mean for f in found])
    half = np.nan_to_num(np.array([f.half_width for f in found]))
    low, high = np.clip([middle - half, middle + half], *(within or (None, None)))
    axis.plot(places, middle, **look)
    axis.fill_between(places, low, high, color=look["color"], alpha=0.15, linewidth=0)


def bar(axis: Axes, place: int, values: Sequence[float], *, width: float, spread: float) -> None:
    """The mean over tasks with its interval, and a dot for each of them, drawn apart over `spread` to either side."""
    found = mean_ci(values)
    axis.bar(place, found.mean, color=COLOURS[5], width=width)
    axis.errorbar(place, found.mean, yerr=np.nan_to_num(found.half_width), color="black", capsize=3)
    axis.scatter(place + np.linspace(-spread, spread, len(values)), values, s=7, color=COLOURS[0], zorder=3)


def heatmap(axes: Axes, values: Any, *, low: float = 0.0, high: float, title: str = "") -> Any:
    """Cells of a matrix, origin on top, without grid lines; returns the image for a colour bar."""
    axes.grid(False)
    image = axes.imshow(values, cmap=SEQUENTIAL, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_title(title, fontsize=9)
    return image


def ticks(count: int, most: int = 8) -> Sequence[int]:
    """At most `most` evenly spaced positions of `count`."""
    return range(0, count, max(1, -(-count // most)))
