"""docs/results/bench.json: a list of rows, one system's replaced at a time, and its table as Markdown."""

import ctypes
import json
import operator
import subprocess
import sys
import threading
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_modules.common.tables import markdown, terminal
from lightning_modules.runtime.load import BUSY, Load
from lightning_modules.runtime.provenance import machine
from tests.results import CHECKED_OUT, PROJECT, RESULTS

COLUMNS = ("row", "value", "unit", "goal", "against", "why")

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


def row(
    name: str,
    value: float | None,
    unit: str,
    *,
    goal: str = "",
    peer: str = "",
    why: str = "",
    missed: str = "",
) -> dict[str, Any]:
    """One row; `value` None wants a `why`. missed: what is added to `why` where the goal is not met."""
    assert value is not None or why, name
    if value is not None and missed and not met(value, goal):
        why = "; ".join(filter(None, [missed, why]))
    found = {"row": name, "value": value, "unit": unit, "goal": goal, "peer": peer}
    return {**found, "why": why} if why else found


def met(value: float, goal: str) -> bool:
    """Whether a value is within a goal such as `<= 1.5`; there may be none."""
    signs = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
    sign, _, bound = goal.partition(" ") if " " in goal else ("==", "", goal)
    return not goal or signs.get(sign, operator.eq)(value, float(bound))


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """What `python -m MODULE ARGUMENTS` prints last, as JSON; RuntimeError with its last words when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Quiet:
    """Watches, from when it is made, whether processes other than the bench's own were at work.

    What outlives its parent, as the server of a sweep's jobs does, comes under the bench, with the seconds that it took.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(SUBREAPER, 1)
        self.seconds, self.load, self.found = seconds, Load(), list[float]()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._over.wait(self.seconds):
            self.found.append(self.load.others())
            self.load.again()

    def worst(self) -> float:
        """Cores that others took in the busiest of the stretches, the last one included."""
        self._over.set()
        # Seconds of the processor come in hundredths: of a moment they say nothing.
        time.sleep(min(1.0, self.seconds))
        return max([*self.found, self.load.others()])

    def insist(self) -> None:
        """Leaves with 1 when they took what makes timings worthless: a table of them would stand for years."""
        if (worst := self.worst()) >= BUSY:
            print(
                f"error: other processes took up to {worst:.1f} cores while this was measured; nothing is written. "
                "Run it again on a machine that has nothing else to do.",
                file=sys.stderr,
            )
            sys.exit(1)


def write(system: str, rows: list[dict[str, Any]], *, command: str, others: Container[str] = ()) -> None:
    """Replace this system's rows in bench.json, write bench.md from all of them, print this system's table.

    others: names of this system's rows that are measured elsewhere; those stay, and names that nobody measures go.
    """
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "bench.json"
    before = json.loads(path.read_text()) if path.is_file() else []
    # What a GPU was measured at is renewed by `make gpu` alone.
    own = [r["row"] for r in rows]
    kept = [r for r in before if r["system"] != system or (r["row"] not in own and (on_gpu(r) or r["row"] in others))]
    common = {"commit": CHECKED_OUT, "machine": machine(), "command": command}
    _publish(kept + [{"system": system, **r, **common} for r in rows], path)
    show(system, rows)


def show(system: str, rows: list[dict[str, Any]]) -> None:
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
