"""Whether runs are there, asked of MLflow's SQLite file itself: its client takes seconds to import."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from lightning_modules.runtime import records


def problem(uri: str, key: str, run_id: str) -> str:
    """Why there is no such run, '' where there is one, or may be: of a server MLflow's client has to be asked."""
    if wrong := records.wrong_id(key, run_id):
        return wrong
    if not uri.startswith("sqlite:///"):
        return ""
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not path.is_file():
        return f"{key}={run_id}: the tracking server knows no such run: {path} is not there, so no run was kept yet."
    try:
        begin = list(_beginning_with(path, run_id))
    except sqlite3.Error:
        return ""
    if run_id in begin:
        return ""
    nearest = f"; {begin[0]} begins so" if len(begin) == 1 else ""
    return f"{key}={run_id}: the tracking server knows no such run; expected the whole id of one{nearest}."


def _beginning_with(path: Path, start: str) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        # Hexadecimal digits only, so that nothing in it is a wildcard.
        for (run_id,) in file.execute("SELECT run_uuid FROM runs WHERE run_uuid LIKE ?", (f"{start}%",)):
            yield run_id
