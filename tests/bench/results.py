"""docs/results/bench.json: a list of rows, one system's replaced at a time, and its table as Markdown."""

import json
from typing import Any

from rich.console import Console

from lightning_modules.common.tables import markdown, terminal
from lightning_modules.runtime.provenance import commit, machine
from tests.results import RESULTS

COLUMNS = ("row", "value", "unit", "goal", "against", "why")


def row(name: str, value: float | None, unit: str, *, goal: str = "", peer: str = "", why: str = "") -> dict[str, Any]:
    """One row; `value` None wants a `why`."""
    assert value is not None or why, name
    found = {"row": name, "value": value, "unit": unit, "goal": goal, "peer": peer}
    return {**found, "why": why} if why else found


def write(system: str, rows: list[dict[str, Any]], *, command: str) -> None:
    """Replace this system's rows in bench.json, write bench.md from all of them, print this system's table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "bench.json"
    others = [r for r in json.loads(path.read_text()) if r["system"] != system] if path.is_file() else []
    common = {"commit": commit(), "machine": machine(), "command": command}
    whole = others + [{"system": system, **r, **common} for r in rows]
    path.write_text(json.dumps(whole, indent=1) + "\n")
    text = "# Speed\n\nWritten by `make bench`; ratios are measured side by side in one run.\n"
    for name in dict.fromkeys(r["system"] for r in whole):
        own = [r for r in whole if r["system"] == name]
        text += f"\n## {name}\n\nCommit {own[0]['commit']}, {own[0]['machine']}, `{own[0]['command']}`\n\n"
        text += markdown(COLUMNS, [cells(r) for r in own])
    (RESULTS / "bench.md").write_text(text)
    Console(width=150).print(terminal(COLUMNS, [cells(r) for r in rows], title=f"{system} on {machine()}"))


def cells(found: dict[str, Any]) -> list[str]:
    value = "not measured" if found["value"] is None else f"{found['value']:.4g}"
    return [found["row"], value, found["unit"], found["goal"], found["peer"], found.get("why", "")]
