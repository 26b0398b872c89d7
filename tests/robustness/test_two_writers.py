"""The same command started twice at once: one writes, the other says who does and leaves."""

import os
import signal
import socket
import time

from lightning_modules.common.lock import HELD
from lightning_modules.runtime.sync import sync
from tests.robustness.runs import STEPS, curves, finish, run_folder, start, step_of
from tests.robustness.test_sweep import jobs, mlflow_runs, training

SWEEP = ["-m", "experiment_name=test/sweep", "trainer.max_steps=5000"]


def test_the_same_run_twice_at_once_trains_once(tmp_path):
    # On a loaded machine the first may have ended before the second asks: then once more, from its start.
    for attempt in range(5):
        folder = tmp_path / f"run {attempt}"
        pair = [start(folder), start(folder)]
        codes = [process.wait(timeout=120) for process in pair]
        if codes != [0, 0]:
            break
    assert sorted(codes) == [0, HELD]
    winner = pair[codes.index(0)].pid
    said = (folder / "output.log").read_text()
    assert f"error: {run_folder(folder)} is in use by process {winner} on {socket.gethostname()}, since" in said
    points, run = curves(folder)
    assert [step for step, _ in points["train/loss"]] == list(range(STEPS))
    assert run.info.status == "FINISHED"


def test_a_killed_one_is_taken_over_and_a_living_one_is_left_alone(tmp_path):
    folder = tmp_path / "run"
    first = start(folder)
    while step_of(folder) < 3:
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("runs/**/*") if p.is_file()}
    assert start(folder).wait(timeout=60) == HELD
    # The journal of a run at work is its own to deliver.
    assert str(sync(folder / "runs")[str(run_folder(folder))]).startswith(f"not delivered: process {first.pid} on")
    assert {p: p.stat().st_mtime_ns for p in folder.glob("runs/**/*") if p.is_file()} == before
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    finish(folder)
    points, run = curves(folder)
    assert [step for step, _ in points["train/loss"]] == list(range(STEPS))
    assert run.info.status == "FINISHED"


def test_a_sweep_and_a_job_of_one_are_held_too(tmp_path):
    folder = tmp_path / "sweep"
    first = start(folder, *SWEEP, "seed=1,2")
    job = training(first, "seed=1")
    # /proc shows the environment that a process was started with: of a fork that of the process that forks.
    assert "FACET_SWEEP" not in job.environ(), "it has imported everything anew"
    place = next(p.parent for p in folder.glob("runs/test/sweep/*/lock.*") if f'"pid": {job.pid},' in p.read_text())
    assert start(folder, *SWEEP, "seed=1,2").wait(timeout=60) == HELD
    assert f"error: {folder}/runs/test/sweep is in use by process {first.pid} on" in (folder / "output.log").read_text()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    # Its job lives on, and is left alone by the sweep that takes the dead one's place.
    again = start(folder, *SWEEP, "seed=1,2")
    training(again, "seed=2")
    status, reason = next(v for k, v in jobs(folder / "runs" / "test" / "sweep").items() if "seed=1" in k)
    assert status == "failed"
    assert reason.startswith(f"{place} is in use by process {job.pid} on {socket.gethostname()}, since")
    os.killpg(again.pid, signal.SIGTERM)
    assert again.wait(timeout=60) == 130
    while not (place / "tracking.done").is_file():
        assert job.is_running(), "it ended before its first delivery to MLflow"
        time.sleep(0.05)
    _, _, children = mlflow_runs(folder)
    assert sorted(c.info.status for c in children) == ["KILLED", "RUNNING"]
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=60)
