"""The page of what was learned: words of ours, every number from the rows of the table."""

import math
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from lightning_modules.claims import statistics as st
from lightning_modules.claims.evidence import Row, settled_later

# Power below which a row could hardly have seen an effect of its margin.
WEAK = 0.2


class MissingRowError(KeyError):
    """A row that the page speaks of has no runs."""


class Told:
    """What the template asks of the measured rows, by their keys; `MissingRowError` where there is none."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {row.key: row for row in rows if row.finding}

    def row(self, key: str) -> Row:
        if key not in self.rows:
            raise MissingRowError(key)
        return self.rows[key]

    def first(self, row: Row) -> Row | None:
        """The same claim's row of the first series."""
        return self.rows.get(row.key.removesuffix(f"+{row.trial.series}"))

    def mean(self, key: str, arm: str, digits: int) -> str:
        values = self.row(key).arm(arm)
        return f"{sum(values) / len(values):.{digits}f}"

    def percent(self, key: str) -> str:
        """By how many percent a quantity falls, of an effect in its logarithm."""
        return f"{100 * (1 - math.exp(-_effect(self.row(key)))):.1f}%"

    def apart(self, key: str) -> str:
        """By how many percent two arms differ in a seed, in the mean and whichever is larger, of effects in a logarithm."""
        effects = self.row(key).effects
        return f"{100 * sum(map(abs, effects)) / len(effects):.1f}%"

    def ratio(self, key: str, over: str, under: str) -> str:
        """The geometric mean over seeds of one arm over another."""
        row = self.row(key)
        logs = [math.log(values[over] / values[under]) for values in row.values.values()]
        return f"{math.exp(sum(logs) / len(logs)):.1f}"

    def seeds(self, key: str) -> str:
        strength = self.row(key).strength
        return str(strength.seeds) if strength and strength.seeds else "more than can be counted"


def page(rows: Sequence[Row], *, steady: dict[str, int], tally: dict[str, int]) -> str | None:
    """Markdown; None where a row that it speaks of was not run."""
    try:
        return _page(Told(rows), steady=steady, tally=tally)
    except MissingRowError:
        return None


def _page(told: Told, **counts: dict[str, int]) -> str:
    again = [row for row in told.rows.values() if row.trial.series != "first" and told.first(row)]
    differences = [row for row in again if row.claim.rule == "superiority" and row.verdict == st.REPRODUCED]
    smaller = [row for row in differences if (first := told.first(row)) and _effect(row) < _effect(first)]
    weak = [row for row in told.rows.values() if row.strength and row.strength.power < WEAK]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, autoescape=False
    )
    counted = {
        "settled": len(settled_later(list(told.rows.values()))),
        "weak": len(weak),
        "measured": len(told.rows),
        "again": Counter(row.verdict for row in again),
        "differences": len(differences),
        "smaller": len(smaller),
    }
    asked = {name: getattr(told, name) for name in ("mean", "percent", "apart", "ratio", "seeds")}
    text = environment.get_template("learned.md.jinja").render(**asked, **counted, **counts)
    return "\n\n".join(_filled(part) for part in re.split(r"\n\n+", text.strip())) + "\n"


def _effect(row: Row) -> float:
    assert row.finding
    return row.finding.effect


def _filled(part: str) -> str:
    """A paragraph or a list in lines of one width: numbers put into a template leave them uneven."""
    if part.startswith(("#", "!")):
        return part
    options: dict[str, Any] = {"width": 125, "break_long_words": False, "break_on_hyphens": False}
    items = re.split(r"\n(?=- )", part)
    return "\n".join(
        textwrap.fill(" ".join(i.split()), subsequent_indent="  " * i.startswith("- "), **options) for i in items
    )
