"""Two runs of MLflow, point by point and cell by cell: what differs, to the bit."""

import csv
import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient

from lightning_modules.common.metric_names import CLOCKED, CLOCKED_COLUMNS, INNER, PROGRESS

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

Curves = dict[str, dict[int, float]]
Tables = dict[str, list[dict[str, str]]]


class Difference(NamedTuple):
    """kind: `metric` or `table`. where: the first step or cell that differs. a, b: what is there, `-` for nothing."""

    kind: str
    name: str
    where: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.where}: {self.a} then, {self.b} now"


class Record(NamedTuple):
    """All that is compared of a run."""

    curves: Curves
    tables: Tables

    @property
    def size(self) -> str:
        points = sum(map(len, self.curves.values()))
        return f"{len(self.curves)} metrics of {points:,} points and {len(self.tables)} tables"


def record(client: MlflowClient, run_id: str) -> Record:
    """What the clock goes into is left out (`metric_names.CLOCKED`), and how far a study was at what time."""
    metrics = client.get_run(run_id).data.metrics
    curves = {
        name: {m.step: m.value for m in client.get_metric_history(run_id, name)}
        for name in sorted(metrics)
        if not name.startswith((*CLOCKED, PROGRESS))
    }
    return Record(curves, tables(client, run_id))


def tables(client: MlflowClient, run_id: str) -> Tables:
    found: Tables = {}
    if not client.list_artifacts(run_id, "tables"):
        return found
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(Path(client.download_artifacts(run_id, "tables", folder)).glob("*.csv")):
            with open(path, newline="") as file:
                rows = [dict(row) for row in csv.DictReader(file)]
            found[path.stem] = [{k: v for k, v in row.items() if k not in CLOCKED_COLUMNS} for row in rows]
    return found


def differences(a: Record, b: Record) -> list[Difference]:
    """Every metric and table that is not the same, with the first place where it is not.

    A curve of what is trained inside is compared where both have points: what was kept from before has none.
    """
    found = []
    for name in sorted({*a.curves, *b.curves}):
        one, other = a.curves.get(name, {}), b.curves.get(name, {})
        steps = {*one} & {*other} if name.startswith(INNER) else {*one} | {*other}
        step = next((s for s in sorted(steps) if not same(one.get(s), other.get(s))), None)
        if step is not None:
            values = ("-" if step not in each else repr(each[step]) for each in (one, other))
            found.append(Difference("metric", name, f"parts at step {step}", *values))
    for name in sorted({*a.tables, *b.tables}):
        if difference := of_tables(name, a.tables.get(name), b.tables.get(name)):
            found.append(difference)
    return found


def of_tables(name: str, a: list[dict[str, str]] | None, b: list[dict[str, str]] | None) -> Difference | None:
    if a is None or b is None:
        return Difference("table", name, "is missing", *("-" if t is None else f"{len(t)} rows" for t in (a, b)))
    if len(a) != len(b):
        return Difference("table", name, "has other rows", f"{len(a)} rows", f"{len(b)} rows")
    for number, (one, other) in enumerate(zip(a, b, strict=True), start=1):
        for column in dict.fromkeys([*one, *other]):
            cells = one.get(column, "-"), other.get(column, "-")
            if cells[0] != cells[1]:
                return Difference("table", name, f"row {number}, {column!r}", *cells)
    return None


def same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))
