"""`make recipes`: the command of every experiment, what it answers and what it costs, as its file begins."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lightning_modules.runtime.trust import CONF

PYTHON = ".venv/bin/python main.py"
CAPTION = (
    "plan=true: of a few timed steps on one core, with nothing kept from before; the analysis of a study comes on top. "
    "What is made once (language models, prompts, base models, arms) is kept, and taken the next time."
)


class Recipe(NamedTuple):
    """What stands at the top of an experiment's file, after `# Run:`, `# Answers:` and `# Costs:`."""

    name: str
    run: str
    answers: str
    costs: str


def recipe(path: Path, *, name: str) -> Recipe:
    """Of one file. A part goes on over further comment lines, which are indented.

    Raises:
        ValueError: with the file and the part that is missing.
    """
    head = re.match(r"(#.*\n)*", path.read_text())
    assert head
    parts = dict(re.findall(r"^# (Run|Answers|Costs): (.*(?:\n#   .*)*)", head[0], re.M))
    if missing := [part for part in ("Run", "Answers", "Costs") if part not in parts]:
        raise ValueError(f"{path}: begins without '# {missing[0]}: ...'; expected Run, Answers and Costs, as in {CONF}")
    run, answers, costs = (" ".join(parts[part].replace("\n#", "").split()) for part in ("Run", "Answers", "Costs"))
    return Recipe(name, run, answers, costs)


def recipes(folder: Path = CONF / "experiment") -> list[Recipe]:
    """Of every experiment below `folder`, by system and name."""
    return [
        recipe(path, name=str(path.relative_to(folder).with_suffix(""))) for path in sorted(folder.glob("*/*.yaml"))
    ]


def table(found: Sequence[Recipe]) -> Table:
    """A row each, a section a system; fits 100 columns."""
    shown = Table(title=f"Experiments: {PYTHON} and the first column", title_justify="left", caption=CAPTION)
    commands = [one.run.removeprefix(f"{PYTHON} ") for one in found]
    for heading, width in (("command", 37), ("answers", 31), ("costs on two cores", 22)):
        shown.add_column(heading, overflow="fold", width=width)
    systems = [one.name.partition("/")[0] for one in found]
    for one, command, system, following in zip(found, commands, systems, [*systems[1:], ""], strict=True):
        shown.add_row(escape(command), one.answers, one.costs, end_section=system != following)
    return shown


if __name__ == "__main__":
    Console(width=None if sys.stdout.isatty() else 100).print(table(recipes()))
