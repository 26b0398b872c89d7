"""`make soak`: kills a two-rank run at random moments, resumes it each time, and compares it with an undisturbed one.

Then the tracking server is away in every way of `outages.py`, and bad command lines and attacks are counted by running their
tests. A part can be run alone, `python -m tests.robustness.soak attacks`; the others keep their numbers and the commit they
were found at.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning_modules.runtime.provenance import commit
from tests.robustness.outages import KINDS, POINTS, outage
from tests.robustness.runs import PROJECT, assert_equal, curves, finish, metrics_of, start, state
from tests.runtime.test_tracking import Server

KILLS, SEED = 20, 0
OVERRIDES = ["trainer=ddp_cpu", "trainer.devices=2", "balance=global_buffer", "trainer.accumulate_grad_batches=2"]
OVERRIDES += ["trainer.max_steps=400", "trainer.val_check_interval=35"]
# All of test_attacks.py but the two tests that what is right is let through, and two of test_replay.py.
ATTACKS = "(test_attacks and not is_taken and not not_allowed) or foreign or escape"


def kills(folder: Path) -> tuple[int, bool, int, int]:
    """(kills that hit a living run, ends bitwise equal, points lost, points twice)."""
    whole = finish(folder / "whole", *OVERRIDES)
    began = time.monotonic()
    finish(folder / "timed", *OVERRIDES)
    length = time.monotonic() - began
    draw, hits = random.Random(SEED), 0
    broken = folder / "broken"
    while hits < KILLS:
        process = start(broken, *OVERRIDES)
        # Anywhere from the first import to the last write; what is left of the run gets shorter with every resume.
        time.sleep(draw.uniform(0.1, length))
        if process.poll() is not None:
            assert process.returncode == 0
            # It ended before the moment came: begin another one.
            subprocess.run(["rm", "-rf", str(broken)], check=True)
            continue
        subprocess.run(["pkill", "-KILL", "-g", str(process.pid)], check=False)
        assert process.wait() == -signal.SIGKILL
        hits += 1
        print(f"kill {hits} of {KILLS}", flush=True)
    resumed = finish(broken, *OVERRIDES)
    assert_equal(state(resumed), state(whole))
    assert metrics_of(resumed) == metrics_of(whole)
    expected, found = curves(folder / "whole")[0], curves(broken)[0]
    lost = sum(len(set(points) - set(found.get(name, []))) for name, points in expected.items())
    twice = sum(len(points) - len(set(points)) for points in found.values())
    return hits, True, lost, twice


def passed(*tests: str) -> tuple[int, int]:
    """(tests run, tests passed) of pytest on `tests`."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-rA", *tests]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    good = sum(line.startswith("PASSED") for line in lines)
    return good + sum(line.startswith(("FAILED", "ERROR")) for line in lines), good


def kill_part() -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        hit, equal, lost, twice = kills(Path(folder))
    return {
        "kills": hit,
        "resumed_bitwise_equal": hit if equal else 0,
        "points_lost": lost,
        "points_twice": twice,
    }


def outage_part() -> dict[str, Any]:
    """How often the tracking server was away in each way, and what became of the points of the runs meanwhile."""
    found: list[tuple[int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        try:
            for number, kind in enumerate(KINDS):
                for from_start in (False, True):
                    place = Path(folder, f"run{number}{from_start}")
                    found.append(outage(kind, server=server, folder=place, from_start=from_start))
        finally:
            server.stop()
    lost, twice, runs = (sum(column) for column in zip(*found, strict=True))
    return {
        "outages": dict.fromkeys(KINDS, 2),
        "outage_points": POINTS * len(found),
        "outage_points_lost": lost,
        "outage_points_twice": twice,
        "outage_runs_twice": runs,
    }


def bad_input_part() -> dict[str, int]:
    bad, named = passed("tests/runtime/test_preflight.py", "-k", "one_message")
    return {"bad_inputs": bad, "bad_inputs_named": named}


def attack_part() -> dict[str, int]:
    attacks, refused = passed("tests/runtime/test_attacks.py", "tests/runtime/test_replay.py", "-k", ATTACKS)
    return {"attacks": attacks, "attacks_succeeded": attacks - refused}


PARTS = {"kills": kill_part, "outages": outage_part, "bad_inputs": bad_input_part, "attacks": attack_part}


def main() -> None:
    """Every part, or those named on the command line; `parts` says at which commit each one's numbers were found."""
    wanted = sys.argv[1:] or list(PARTS)
    path = PROJECT / "docs" / "results" / "soak.json"
    found = json.loads(path.read_text())
    for name in wanted:
        found |= PARTS[name]()
        found.setdefault("parts", {})[name] = commit()
    if wanted == list(PARTS):
        found["commit"] = commit()
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
