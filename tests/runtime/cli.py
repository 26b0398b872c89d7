"""Runs main.py as a user does, in a folder of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]


class Done(NamedTuple):
    code: int
    text: str
    folder: Path

    def results(self):
        """{run folder name: result.json} of every run that ended well."""
        return {p.parent.name: json.loads(p.read_text()) for p in self.folder.glob("runs/**/result.json")}


def main(folder, *overrides, check=True, smoke=True):
    """`python main.py OVERRIDES`, with the smoke settings unless told otherwise, and all that it writes under `folder`."""
    flags = [o for o in overrides if o.startswith("-")]
    settings = [o for o in overrides if not o.startswith("-")]
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    command = [sys.executable, str(PROJECT / "main.py"), *flags, *["debug=smoke"] * smoke, *places, *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    text = done.stdout + done.stderr
    assert not check or done.returncode == 0, text
    return Done(done.returncode, text, Path(folder))
