"""Runs main.py as a user does, in a folder of its own."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from tests import forks
from tests.tracking import database

PROJECT = Path(__file__).parents[2]
# For a run of which no test looks at a picture: drawing them is a third of what a smoke run takes.
PLAIN = ["callbacks.figures=null", "look.page=false"]


class Done(NamedTuple):
    code: int
    text: str
    folder: Path

    def results(self):
        """{run folder name: result.json} of every run that ended well."""
        return {p.parent.name: json.loads(p.read_text()) for p in self.folder.glob("runs/**/result.json")}


def main(folder, *overrides, check=True, smoke=True, really=False, timeout=300):
    """`python main.py OVERRIDES`, with the smoke settings unless told otherwise, and all that it writes under `folder`.

    really: as a user does, by a process that imports everything and makes the database; else forked (tests/forks.py).
    """
    flags = [o for o in overrides if o.startswith("-")]
    settings = [o for o in overrides if not o.startswith("-")]
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    command = [sys.executable, str(PROJECT / "main.py"), *flags, *["debug=smoke"] * smoke, *places, *settings]
    if not really and "logger=none" not in settings:
        database(Path(folder) / "tracking")
    done = forks.run(command, cwd=folder, timeout=timeout, really=really)
    text = done.stdout + done.stderr
    assert not check or done.returncode == 0, text
    return Done(done.returncode, text, Path(folder))
