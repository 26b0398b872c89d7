"""Tables on terminals and pipes: no cell is broken, none is lost."""

import io

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from lightning_modules.common import tables
from lightning_modules.common.tables import mean_ci

COLUMNS = ["task", *(f"sentiment/column_{i}" for i in range(8))]
ROWS = [[f"sentiment_film_{row}", *(f"{row}.{i}23" for i in range(8))] for row in range(2)]


def printed(*, width, terminal, columns=COLUMNS, rows=ROWS):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    tables.show(columns, rows, title="scores", console=console)
    return console.file.getvalue().splitlines()


def test_without_a_terminal_a_table_is_as_wide_as_it_is():
    lines = printed(width=80, terminal=False)
    assert sum("sentiment_film_0" in line for line in lines) == 1
    assert all(name in lines[2] for name in COLUMNS)


def test_a_narrow_terminal_gets_parts_that_each_say_whose_rows_they_are():
    lines = printed(width=80, terminal=True)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(text.count(cell) == 1 for row in ROWS for cell in row[1:])
    assert all(text.count(name) == 1 for name in COLUMNS[1:])
    assert text.count("sentiment_film_0") == sum("task" in line for line in lines) > 1


@pytest.mark.parametrize("terminal", [False, True])
def test_lists_in_a_cell_are_no_markup(terminal):
    cell = "study.tasks=[film,shop] a=[/b] c=[red]"
    text = "\n".join(printed(width=80, terminal=terminal, columns=["job", "[seed]"], rows=[[cell, "[1]"]]))
    assert cell in text
    assert "[seed]" in text and "[1]" in text


def test_an_interval_is_that_of_scipy():
    values = [3.0, 4.5, 1.25, 2.0]
    mean, half_width, _ = mean_ci(values, confidence=0.9)
    expected = stats.t.interval(0.9, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half_width, mean + half_width) == pytest.approx(expected, rel=1e-14)
    assert np.isnan(mean_ci(values[:1]).half_width)


@pytest.mark.filterwarnings("error")
def test_of_no_value_there_is_no_mean():
    assert str(mean_ci([])) == "nan"
