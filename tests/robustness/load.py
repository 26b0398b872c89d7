"""`make test-load`: tests of stopping, killing, locks and outages, again and again while every core is busy.

A test that waits for a fixed time holds on an idle machine and fails on a loaded one. Every file is run ten times (or as
often as the command line says) beside one busy loop a core, or beside what else the machine works at (`--loops 0`);
docs/results/load.json has its repetitions and failures, and how many cores were taken by processes that are neither the
tests' nor loops. The same command again goes on at the commit where it was stopped; another commit begins anew.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_modules.runtime.load import Load
from lightning_modules.runtime.provenance import machine
from tests.results import CHECKED_OUT, PROJECT, RESULTS, note

ROOMS = ("tests/robustness", "tests/runtime")
NAMES = ("test_stopping.py", "test_lock.py", "test_outages.py")
REPETITIONS = 10
BAD = ("FAILED ", "ERROR ")


def files() -> list[str]:
    whole, some = ROOMS
    found = sorted(path.relative_to(PROJECT) for path in (PROJECT / whole).glob("test_*.py"))
    return [*map(str, found), *(f"{some}/{name}" for name in NAMES)]


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def so_far(folder: Path, here: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{test file: its row} of this commit and machine."""
    path = folder / "load.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    return {row["tests"]: row for row in rows if here.items() <= row.items()}


def once(tests: str) -> tuple[float, list[str]]:
    """(seconds, tests that failed) of one run of a file."""
    command = [sys.executable, "-m", "pytest", "--override-ini", "addopts=-q", "-p", "no:cacheprovider", "-rfE", tests]
    began = time.monotonic()
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    failed = [line.split(" - ")[0].split("::", 1)[-1] for line in done.stdout.splitlines() if line.startswith(BAD)]
    if done.returncode and not failed:
        failed = [f"pytest left with {done.returncode}"]
    if failed:
        print(done.stdout[-6000:], flush=True)
    return time.monotonic() - began, failed


def repeat(tests: list[str], repetitions: int, *, loops: int, folder: Path = RESULTS) -> int:
    """Run every file until it has had its repetitions; failures in all."""
    here = {"commit": CHECKED_OUT, "machine": machine(), "busy_loops": loops}
    rows = so_far(folder, here)
    with busy(loops):
        for number in range(repetitions):
            for name in tests:
                row = rows.setdefault(
                    name,
                    {
                        "tests": name,
                        "repetitions": 0,
                        "failures": 0,
                        "seconds": 0.0,
                        "cores_of_others": 0.0,
                        "failed": [],
                    },
                )
                if row["repetitions"] > number:
                    continue
                load = Load()
                seconds, failed = once(name)
                before = row["repetitions"]
                row["repetitions"] += 1
                row["failures"] += bool(failed)
                for key, value in (("seconds", seconds), ("cores_of_others", load.others())):
                    row[key] = round((row[key] * before + value) / row["repetitions"], 2)
                row["failed"] = sorted({*row["failed"], *failed})
                print(f"{name}: {row['repetitions']} of {repetitions}, {row['failures']} failed", flush=True)
                own = {key: row[key] for key in row if key != "command"}
                note("load", key=("tests",), command="make test-load", folder=folder, **{**own, **here})
    return sum(row["failures"] for name, row in rows.items() if name in tests)


def main() -> int:
    """[how often [which files]] [--loops N] of the command line; left out: ten times, all files, a loop a core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=int, default=os.cpu_count() or 1)
    given, words = parser.parse_known_args()
    often, *some = words or [str(REPETITIONS)]
    if not often.isdecimal() or (wrong := sorted({*some} - {*files()})):
        told = f"{often!r} is no number of repetitions" if not often.isdecimal() else f"{wrong[0]!r} is no such file"
        sys.exit(f"error: {told}; expected a number, and then files of these: {', '.join(files())}")
    return 1 if repeat(some or files(), int(often), loops=given.loops) else 0


if __name__ == "__main__":
    sys.exit(main())
