"""The small JSON files of runs and sweeps, each read in one place.

One that is empty counts as not there: what was to be written did not reach the disk.
"""

import json
import re
from pathlib import Path
from typing import Any

from lightning_modules.common.files import private, write_atomically

RESULT, RUN, SWEEP, BEGUN = "result.json", "run.json", "sweep.json", "begun.json"
# Of a sweep: a line whenever a job has ended.
JOBS = "sweep.jsonl"


def result(folder: Path) -> dict[str, Any] | None:
    """What a finished run found, None of one that is not done: its presence is what "done" means."""
    return _read(folder / RESULT, ("metrics",), "delete it, and the same command goes on from the last checkpoint")


def run(folder: Path) -> dict[str, Any] | None:
    """`uid`, `run_id` and `params`: which MLflow run the folder belongs to. None before there is one."""
    remedy = "delete it, and the run is found again by tracking.jsonl, or set fresh=true to begin another one"
    return _read(folder / RUN, ("uid", "run_id", "params"), remedy)


def write_run(folder: Path, known: dict[str, Any]) -> None:
    """What `run` reads, for its owner alone."""
    write_atomically(folder / RUN, json.dumps(known, indent=1), opener=private)


def wrong_id(key: str, run_id: str) -> str:
    """Why it is the id of no run of MLflow, '' where it may be one: what is not may lead out of a folder."""
    if re.fullmatch(r"[0-9a-f]+", run_id):
        return ""
    return f"{key}={run_id}: expected a run's id, hexadecimal digits as the MLflow UI shows them."


def sweep(folder: Path) -> dict[str, Any] | None:
    """`run_id`: the parent run that an earlier command opened for the sweep in `folder`."""
    return _read(folder / SWEEP, ("run_id",), "delete it, and the sweep opens another parent run")


def begun(folder: Path) -> dict[str, Any] | None:
    """`config` and `files`: what the run in `folder` was begun with (`begun`), and `job`: by which of SLURM's. None before
    it was."""
    return _read(folder / BEGUN, ("config", "files"), "delete it, and the run stands, or goes on, as it is")


def _read(path: Path, keys: tuple[str, ...], remedy: str) -> dict[str, Any] | None:
    """ValueError naming the file, what is wrong with it and what to do."""
    text = path.read_bytes() if path.is_file() else b""
    if not text.strip(b"\0 \n"):
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}.") from None
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking:
        raise ValueError(f"{path} is damaged (it has no {', '.join(lacking)}); {remedy}.")
    return found
