"""What a page costs beside the run that it belongs to (part of `make bench`).

Runs are cut short and their prompts' model is untrained; a page costs the same then, so its share here is more than that of
a whole run.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.results import Quiet, row, write
from tests.results import PROJECT

TASKS = "study.tasks=[sentiment_film,sentiment_shop,number_film,number_shop]"
PROMPTS = (TASKS, "study.trials=2", "backbone.random_init=true")
RUNS = {
    "experts": ("experiment=moe/scope", "balance=global", "trainer.max_steps=200"),
    "pairs": ("experiment=svco/train", "trainer.max_steps=60"),
    "matrix": ("experiment=prompt/transfer", "study.controls=[]", *PROMPTS),
    "neurons": ("experiment=prompt/skill_neurons", *PROMPTS),
}
TOLD = "FACET_BENCH_TOLD"


def timed(arguments: list[str]) -> None:
    """`main.py` with `arguments`; seconds of the whole process and of its page go to the file of `TOLD`."""
    began = time.perf_counter()
    from lightning_modules.moe.callbacks.look import LookPage as OfMixtures
    from lightning_modules.runtime.study import Desk
    from lightning_modules.svco.callbacks.look import LookPage as OfPairs

    spent = [0.0]
    for kind, names in (
        (Desk, ["page"]),
        (OfPairs, [n for n in vars(OfPairs) if n.startswith("on_")]),
        (OfMixtures, [n for n in vars(OfMixtures) if n.startswith("on_")]),
    ):
        for name in names:
            setattr(kind, name, watched(getattr(kind, name), spent))
    sys.argv = [str(PROJECT / "main.py"), *arguments]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    Path(os.environ[TOLD]).write_text(json.dumps({"whole": time.perf_counter() - began, "page": spent[0]}))
    sys.exit(code)


def watched(work: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timing(*given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*given, **named)
        finally:
            spent[0] += time.perf_counter() - start

    return timing


def measured(kind: str, folder: Path) -> dict[str, float]:
    """`whole` and `page` in seconds, `MiB` of the page; its charts' code is kept already, its prompts are not."""
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking")]
    if kind in ("matrix", "neurons"):
        (folder / "cache").mkdir(parents=True)
        places.append(f"paths.cache={folder}/cache")
        (folder / "cache" / "look").symlink_to(PROJECT / ".cache" / "look")
    command = [sys.executable, "-m", "tests.bench.look", *RUNS[kind], *places]
    environment = {**os.environ, TOLD: str(folder / "told.json")}
    (folder / "tracking").mkdir(parents=True)
    subprocess.run(command, cwd=PROJECT, check=True, env=environment, stdout=subprocess.DEVNULL)
    (page,) = folder.glob("runs/**/look.html")
    return {**json.loads((folder / "told.json").read_text()), "MiB": page.stat().st_size / 2**20}


def main() -> None:
    from lightning_modules.look.page import charts

    quiet, rows = Quiet(), []
    charts(PROJECT / ".cache")
    with tempfile.TemporaryDirectory() as name:
        for kind, words in RUNS.items():
            found = measured(kind, Path(name) / kind)
            run = " ".join(words)
            rows += [
                row(
                    f"page of {kind}, share of its run",
                    100 * found["page"] / found["whole"],
                    "%",
                    goal="<= 5",
                    peer=run,
                ),
                row(f"page of {kind}", found["page"], "s"),
                row(f"page of {kind}, its file", found["MiB"], "MiB", goal="<= 3"),
            ]
            print(json.dumps({kind: found}), file=sys.stderr, flush=True)
    quiet.insist()
    write("pages", rows, command="make bench")


if __name__ == "__main__":
    timed(sys.argv[1:]) if sys.argv[1:] else main()
