"""A sweep of a hundred jobs of `debug=smoke`, of which five are killed from outside, and the same command again.

Before, each job was a process that imported everything itself, as FACET_FORKS=0 has it still: ten of these, times ten.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.commands import command
from tests.bench.results import row

JOBS, BEFORE = 100, 10
# By their seeds, which are 1 to JOBS in the order of the jobs.
KILLED = (7, 28, 50, 71, 93)
NAMES = (
    "sweep of a hundred jobs: seconds",
    "sweep of a hundred jobs: seconds, before / now",
    "sweep of a hundred jobs: jobs lost beside the five killed",
    "sweep of a hundred jobs: seconds of the same command again",
)


def sweep(folder: Path, jobs: int, *, killed: tuple[int, ...] = (), forks: bool = True) -> tuple[int, float]:
    """(exit code, seconds) of a sweep over seeds; each of `killed` gets SIGKILL once it has logged a training loss."""
    seeds = ",".join(map(str, range(1, jobs + 1)))
    environment = {**os.environ, **({} if forks else {"FACET_FORKS": "0"})}
    began = time.perf_counter()
    with open(folder.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(
            command(folder, "-m", "debug=smoke", f"seed={seeds}"), cwd=folder, env=environment, stdout=log, stderr=log
        )
        killer = threading.Thread(target=kill, args=(folder, killed, process), daemon=True)
        killer.start()
        code = process.wait()
    seconds = time.perf_counter() - began
    killer.join()
    return code, seconds


def kill(folder: Path, seeds: tuple[int, ...], sweep: "subprocess.Popen[bytes]") -> None:
    """One after the other, in the order in which their jobs come."""
    for seed in seeds:
        while sweep.poll() is None:
            training = [
                p for p in folder.glob(f"runs/debug/smoke/*-s{seed}/tracking.jsonl") if "train/loss" in p.read_text()
            ]
            if training:
                # The highest turn counts (lightning_modules/common/lock.py).
                holder = max(training[0].parent.glob("lock.*"), key=lambda path: int(path.suffix[1:]))
                os.kill(json.loads(holder.read_text())["pid"], signal.SIGKILL)
                break
            time.sleep(0.01)


def ended(folder: Path) -> dict[int, tuple[str, str]]:
    """{seed: (status, reason)} of the sweep's last word on every job."""
    lines = (folder / "runs" / "debug" / "smoke" / "sweep.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return {int(e["folder"].rpartition("-s")[2]): (e["status"], e["reason"]) for e in entries}


def mlflow_status(folder: Path) -> Counter[str]:
    """Of the jobs' runs; the sweep's own is left out."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=10 * JOBS)
    return Counter(run.info.status for run in runs if "mlflow.parentRunId" in run.data.tags)


def trial(folder: Path, *, jobs: int, killed: tuple[int, ...], before: int) -> list[dict[str, Any]]:
    """The rows; AssertionError where a job ended otherwise than it should, here or in MLflow."""
    print(f"{before} jobs that import everything themselves", flush=True)
    code, took = sweep(folder / "before", before, forks=False)
    assert code == 0, f"the sweep without forks ended with {code}"
    scaled = took * jobs / before
    print(f"{jobs} jobs, {len(killed)} killed (before: {took:.0f} s for {before})", flush=True)
    code, seconds = sweep(folder / "now", jobs, killed=killed)
    found = ended(folder / "now")
    assert code == 1, f"the sweep ended with {code}; expected 1, as jobs are not done"
    assert all(found[seed] == ("failed", "killed by SIGKILL (out of memory?)") for seed in killed), found
    lost = [seed for seed in range(1, jobs + 1) if seed not in killed and found.get(seed, ("",))[0] != "done"]
    status = mlflow_status(folder / "now")
    assert status == {"FINISHED": jobs - len(killed) - len(lost), "FAILED": len(killed) + len(lost)}, status
    print(f"the same again, after {seconds:.0f} s", flush=True)
    code, again = sweep(folder / "now", jobs)
    assert code == 0, f"the same again ended with {code}"
    assert {status for status, _ in ended(folder / "now").values()} == {"done"}
    assert mlflow_status(folder / "now") == {"FINISHED": jobs}, "a killed job goes on in its own run"
    told = f"jobs {', '.join(map(str, killed))} of {jobs} killed by SIGKILL while they trained"
    peer = f"each job a process with its own imports, {before} jobs times {jobs / before:g}"
    values = (
        (seconds, "s", {"why": told}),
        (scaled / seconds, "x", {"peer": peer, "why": f"{scaled:.0f} s before"}),
        (float(len(lost)), "jobs", {"goal": "0", "missed": f"seeds {lost}"}),
        (again, "s", {"why": f"{len(killed)} jobs to do, {jobs - len(killed)} done already"}),
    )
    return [row(name, value, unit, **more) for name, (value, unit, more) in zip(NAMES, values, strict=True)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return trial(folder, jobs=JOBS, killed=KILLED, before=BEFORE)
