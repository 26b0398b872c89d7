"""`make gpu`, or `python3 -m tests.gpu` on what is there: does Facet do on a GPU what it does on the CPU, and how fast?

Under ten minutes, on seeded text of its own: no hub, no tracking server, not the versions of the lock. Each case is kept as
soon as it is over, so that the same command goes on where it was stopped; `--fresh` begins anew. Fills the GPU rows of
docs/results/bench.json and machines.json.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "pytorch_lightning", "torchmetrics", "hydra", "omegaconf", "psutil", "rich", "scipy")
NEEDED += (
    "safetensors",
    "tokenizers",
    "filelock",
    "matplotlib",
    "pandas",
    "pydantic",
    "annotated_types",
    "PIL",
    "yaml",
)
BUDGET_S = 540.0
COMMAND = "make gpu"
NOTHING_TO_DO_IT_WITH = 2


def cases() -> dict[str, Callable[[Any], Iterator[dict[str, Any]]]]:
    """In the order of what one wants to know first."""
    from tests.gpu import command_line, losses, moe, others

    return {
        "losses": losses.losses,
        "resume": losses.resume,
        "processes": command_line.processes,
        "command line": command_line.systems,
        "throughput": moe.throughput,
        "compiled": moe.compiled,
        "svco": others.svco,
        "together": others.together,
        "scope cost": moe.scope_cost,
        "finder": others.finder,
        "matrix": others.matrix,
    }


def run(
    place: Any, wanted: Iterable[str], *, kept: Path, budget_s: float, say: Callable[[str], None] = print
) -> list[str]:
    """Every case that `kept` has not yet; the names of those that failed or that no time was left for."""
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    end, left = time.monotonic() + budget_s, []
    every = cases()
    for name in wanted:
        if name in done:
            continue
        if time.monotonic() > end:
            left.append(name)
            continue
        start = time.monotonic()
        try:
            done[name] = list(every[name](place))
        except Exception as error:
            left.append(name)
            traceback.print_exc()
            say(f"{name}: failed, {type(error).__name__}: {error}")
            continue
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(done, indent=1))
        say(f"{name}: {time.monotonic() - start:.0f} s")
    return left


def rows_of(kept: Path) -> list[dict[str, Any]]:
    done = json.loads(kept.read_text()) if kept.is_file() else {}
    return [row for rows in done.values() for row in rows]


def table(rows: Iterable[dict[str, Any]]) -> str:
    """One line a row."""
    lines = []
    for row in rows:
        if row["table"] == "machines":
            told = f"{'ok' if row['ok'] else 'NOT'}, differs from {row['equal_to']} by {row['difference']:.2g}"
            lines.append((row["case"], told))
        else:
            value = "not measured" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
            more = [f"goal {row['goal']}"] if row["goal"] else []
            lines.append(
                (f"{row['system']}: {row['row']}", ", ".join([value, *more, *([row["why"]] if "why" in row else [])]))
            )
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:<{width}}  {told}" for name, told in lines)


def write(rows: Iterable[dict[str, Any]], *, machine: str) -> None:
    """Into the tables that are committed."""
    from tests.bench.results import fill
    from tests.results import note

    plain = [{k: v for k, v in row.items() if k != "table"} for row in rows if row["table"] == "bench"]
    fill(plain, command=COMMAND, machine=machine)
    os.environ["FACET_RESULTS"] = "1"
    for row in rows:
        if row["table"] == "machines":
            told = {k: v for k, v in row.items() if k != "table"}
            note("machines", key=("case", "machine"), command=COMMAND, **told, machine=machine)


def main(arguments: list[str]) -> int:
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"tests.gpu: {', '.join(missing)} not installed; expected {', '.join(NEEDED)}.")
        return NOTHING_TO_DO_IT_WITH
    import torch

    if not torch.cuda.is_available():
        print(
            f"tests.gpu: torch {torch.__version__} finds no GPU on this machine; nothing was run and no table was changed."
        )
        return NOTHING_TO_DO_IT_WITH
    # Before CUDA starts: a resume can be bitwise only where products are added in one order.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    from tests.gpu.place import gpu
    from tests.results import CHECKED_OUT, PROJECT

    place = gpu()
    machine = f"{place.processes} x {place.name}, torch {torch.__version__}"
    kept = PROJECT / ".cache" / "gpu" / f"{CHECKED_OUT}-{place.name.replace(' ', '-')}.json"
    if "--fresh" in arguments:
        kept.unlink(missing_ok=True)
    left = run(place, cases(), kept=kept, budget_s=BUDGET_S)
    rows = rows_of(kept)
    print(table(rows))
    write(rows, machine=machine)
    wrong = [row["case"] for row in rows if row["table"] == "machines" and not row["ok"]]
    if left:
        print(f"Left: {', '.join(left)}; the same command goes on with them.")
    return int(bool(left or wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
