"""Tables of docs/results that tests write: machines.json, and others of one row a case.

A test hands in its row and asserts by itself. Rows are written only with FACET_RESULTS=1, as the targets that renew a table
set it, so that `make test` leaves the committed tables alone.
"""

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_modules.common.files import write_rows
from lightning_modules.runtime.provenance import commit, git, machine

PROJECT = Path(__file__).parents[1]
RESULTS = PROJECT / "docs" / "results"


def checked_out() -> str:
    """The commit, `-dirty` when more than tables differ from it: what one walk has written is no fault of the next."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)docs/results")
    return commit() if changed else commit().removesuffix("-dirty")


# Asked once, by each of pytest's workers.
CHECKED_OUT = checked_out()


def note(table: str, *, key: tuple[str, ...], command: str, folder: Path = RESULTS, **row: Any) -> None:
    """Put `row` into `folder`/`table`.json in the place of the row that agrees with it in the columns `key`."""
    if os.environ.get("FACET_RESULTS") != "1":
        return
    path = folder / f"{table}.json"
    with FileLock(folder / f".{table}.lock"):
        rows = json.loads(path.read_text()) if path.is_file() else []
        others = [r for r in rows if any(r.get(k) != row[k] for k in key)]
        rows = [*others, {**row, "commit": row.get("commit") or CHECKED_OUT, "command": command}]
        rows.sort(key=lambda r: [str(r.get(k)) for k in key])
        write_rows(path, rows)


def took_its_steps(
    case: str, *, on: str, steps: int, equal_to: str, difference: float, limit: float, command: str = "make machines"
) -> None:
    """Assert that a training's losses are those of `equal_to` within `limit`, and note it in machines.json.

    `on` is what it ran on: `pretended device`, `2 processes over gloo`, `SLURM of 2 nodes`, or a GPU's name.
    """
    row = {
        "case": case,
        "machine": f"{on}, {machine()}",
        "steps": steps,
        "equal_to": equal_to,
        "difference": difference,
    }
    note("machines", key=("case", "machine"), command=command, **row, ok=difference <= limit)
    assert difference <= limit, f"{case}: differs from {equal_to} by {difference:.3g}"
