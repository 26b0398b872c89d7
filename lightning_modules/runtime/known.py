"""Whether runs are there, asked of MLflow's SQLite file itself: its client takes seconds to import."""

import contextlib
import re
import sqlite3
from pathlib import Path

from lightning_modules.runtime import records


def problem(uri: str, key: str, run_id: str) -> str:
    """Why there is no such run, '' where there is one, or may be: of a server MLflow's client has to be asked."""
    if wrong := records.wrong_id(key, run_id):
        return wrong
    if not uri.startswith("sqlite:///"):
        return ""
    path = database(uri)
    if not path.is_file():
        return f"{key}={run_id}: the tracking server knows no such run: {path} is not there, so no run was kept yet."
    try:
        # Hexadecimal digits only, so that nothing in it is a wildcard.
        begin = column(path, "SELECT run_uuid FROM runs WHERE run_uuid LIKE ?", f"{run_id}%")
    except sqlite3.Error:
        return ""
    if run_id in begin:
        return ""
    nearest = f"; {begin[0]} begins so" if len(begin) == 1 else ""
    return f"{key}={run_id}: the tracking server knows no such run; expected the whole id of one{nearest}."


def is_id(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{32}", name) is not None


def not_looked_at(uri: str | None, name: str) -> str:
    """Why `look=name` names no finished run and no sweep, '' where it does, or may: of a server its client is asked."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        there = any((folder / kept).is_file() for kept in (records.RESULT, records.JOBS))
        return "" if there else f"look={name}: the run is not finished (it has no {records.RESULT})."
    if not is_id(name):
        return f"look={name}: expected a run's id as the MLflow UI shows it, or the folder of a finished run."
    if uri is None:
        return f"look={name} with logger=none: expected the tracking server that keeps the run."
    return problem(uri, "look", name)


def database(uri: str) -> Path:
    """The file of a SQLite address."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def column(path: Path, query: str, *values: str) -> list[str]:
    """The first column of what a query finds in a SQLite file, which is only read."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        return [row[0] for row in file.execute(query, values)]
