"""Seconds of whole commands (part of `make bench`): until an error, the first step, "Already done", a sweep's next job."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.results import row
from tests.results import PROJECT

ROUNDS = 3
# Jobs of the long sweep; how much one more takes is what it has more than the short one.
JOBS = 8
WRONG = {
    "seconds until a misspelt key is refused": (["debug=smoke", "model.layer=3"], 1.5),
    "seconds until a wrong task is refused": (["experiment=prompt/tune", "task=nonsense"], 3.0),
    "seconds until a wrong file is refused": (["experiment=svco/train", "data=mvc", "data.source.file=no.json"], 3.0),
}
# As Python is by default: a machine may have been told to compile every source anew at every start.
WARM = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
IMPORTS = "import torch, pytorch_lightning, transformers, hydra, mlflow; from transformers import Qwen3MoeForCausalLM"


def command(folder: Path, *arguments: str) -> list[str]:
    """`main.py ARGUMENTS` that writes below `folder`; what is made once is shared with the folders beside it."""
    flags = [a for a in arguments if a.startswith("-")]
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking")] + [f"paths.cache={folder.parent}/cache"]
    settings = [a for a in arguments if a not in flags]
    folder.mkdir(parents=True, exist_ok=True)
    return [sys.executable, str(PROJECT / "main.py"), *flags, *settings, *places]


def run(folder: Path, *arguments: str, code: int = 0) -> float:
    """Seconds of a whole command; RuntimeError with its last words where it ends with another code."""
    began = time.perf_counter()
    done = subprocess.run(
        command(folder, *arguments), cwd=folder, env=WARM, check=False, capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return seconds


def first_step(folder: Path) -> float:
    """Seconds from the command to the first logged training step."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command(folder, "debug=smoke", "trainer.log_every_n_steps=1"),
        cwd=folder,
        env=WARM,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any("train/loss" in p.read_text() for p in folder.glob("runs/**/tracking.jsonl")):
        if process.poll():
            raise RuntimeError(f"the run ended with {process.returncode} before its first step")
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.wait()
    return seconds


def own(folder: Path) -> float:
    """Seconds that a job of a sweep works by itself: from the config that it writes first to its result."""
    places = [path.parent for path in folder.glob("runs/**/result.json")]
    begun = [(place / ".hydra" / "config.yaml").stat().st_mtime for place in places]
    ended = [(place / "result.json").stat().st_mtime for place in places]
    return statistics.median(e - b for b, e in zip(begun, ended, strict=True))


def imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], env=WARM, check=True)
    return time.perf_counter() - began


def rows(folder: Path) -> list[dict[str, Any]]:
    run(folder / "warm", "debug=smoke")
    run(folder / "warm", "experiment=prompt/tune", "task=nonsense", code=2)
    begin = [(first_step(folder / f"first{i}"), imports()) for i in range(ROUNDS)]
    start, bare = (statistics.median(values) for values in zip(*begin, strict=True))
    again = statistics.median(run(folder / "warm", "debug=smoke") for _ in range(ROUNDS))
    found = [
        row(
            "command to first step",
            start,
            "s",
            goal="<= 4",
            missed="nearly all of it imports of torch, Lightning and transformers",
        ),
        row("command to first step / importing everything", start / bare, "x", peer="importing the libraries whole"),
        row('"Already done"', again, "s", goal="<= 1.5", missed="Hydra composes the config twice"),
    ]
    for name, (arguments, goal) in WRONG.items():
        seconds = statistics.median(run(folder / "wrong", *arguments, code=2) for _ in range(ROUNDS))
        found.append(row(name, seconds, "s", goal=f"<= {goal:g}", missed="torch and Lightning are imported for it"))
    return [*found, one_more(folder)]


def one_more(folder: Path) -> dict[str, Any]:
    """What a job costs a sweep beyond what it does itself."""
    seeds = ",".join(map(str, range(1, JOBS + 1)))
    short, long = (
        [run(folder / f"{name}{i}", "-m", "debug=smoke", f"seed={values}") for i in range(ROUNDS)]
        for name, values in (("pair", "1,2"), ("long", seeds))
    )
    a_job = (statistics.median(long) - statistics.median(short)) / (JOBS - 2)
    work = statistics.median(own(folder / f"long{i}") for i in range(ROUNDS))
    return row(
        "sweep: seconds beyond each job's own",
        a_job - work,
        "s",
        goal="<= 1",
        peer="from the config that a job writes first to its result.json",
        why=f"{work:.1f} s of its own",
        missed="composing the config, the last delivery to MLflow, the sweep's report",
    )
