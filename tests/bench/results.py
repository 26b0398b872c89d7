"""docs/results/bench.json: a list of rows, one system's replaced at a time, and its table as Markdown."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_modules.common.tables import markdown, terminal
from lightning_modules.runtime.provenance import commit, machine
from tests.results import CHECKED_OUT, RESULTS

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
    before = json.loads(path.read_text()) if path.is_file() else []
    # What a GPU was measured at is renewed by `make gpu` alone.
    own = [r["row"] for r in rows]
    others = [r for r in before if r["system"] != system or (on_gpu(r) and r["row"] not in own)]
    common = {"commit": commit(), "machine": machine(), "command": command}
    _publish(others + [{"system": system, **r, **common} for r in rows], path)
    Console(width=150).print(terminal(COLUMNS, [cells(r) for r in rows], title=f"{system} on {machine()}"))


def on_gpu(found: dict[str, Any]) -> bool:
    return found["row"].startswith("GPU: ")


def fill(rows: list[dict[str, Any]], *, command: str, machine: str, folder: Path = RESULTS) -> None:
    """Put rows, each with its system, into the place of those of the same name; the others stay."""
    path = folder / "bench.json"
    before = json.loads(path.read_text()) if path.is_file() else []
    names = {(r["system"], r["row"]) for r in rows}
    others = [r for r in before if (r["system"], r["row"]) not in names]
    common = {"commit": CHECKED_OUT, "machine": machine, "command": command}
    _publish(others + [{**r, **common} for r in rows], path)


def _publish(whole: list[dict[str, Any]], path: Path) -> None:
    whole = sorted(whole, key=lambda r: (list(dict.fromkeys(o["system"] for o in whole)).index(r["system"]), on_gpu(r)))
    path.write_text(json.dumps(whole, indent=1) + "\n")
    text = "# Speed\n\nWritten by `make bench`; ratios are measured side by side in one run.\n"
    for name in dict.fromkeys(r["system"] for r in whole):
        text += f"\n## {name}\n"
        own = [r for r in whole if r["system"] == name]
        for origin in dict.fromkeys((r["commit"], r["machine"], r["command"]) for r in own):
            text += "\nCommit {}, {}, `{}`\n\n".format(*origin)
            text += markdown(COLUMNS, [cells(r) for r in own if (r["commit"], r["machine"], r["command"]) == origin])
    path.with_name("bench.md").write_text(text)


def cells(found: dict[str, Any]) -> list[str]:
    value = "not measured" if found["value"] is None else f"{found['value']:.4g}"
    return [found["row"], value, found["unit"], found["goal"], found["peer"], found.get("why", "")]
