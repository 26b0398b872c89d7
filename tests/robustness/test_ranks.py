"""One of two processes is killed: the other ends within a minute, the run says why, and goes on from its checkpoint."""

import signal
import time

import psutil
import pytest

from lightning_modules.runtime import ranks
from lightning_modules.training.checkpoints import newest_valid
from tests.robustness.runs import assert_equal, curves, finish, run_folder, start, state, step_of

TWO = ["trainer=ddp_cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


def started(folder):
    """(rank 0, rank 1) of a run that has saved a checkpoint and goes on."""
    process = start(folder, *TWO)
    while step_of(folder) < 12:
        assert process.poll() is None, (folder / "output.log").read_text()
        time.sleep(0.01)
    (other,) = (
        p for p in psutil.Process(process.pid).children() if "hydra.job.name=train_ddp_process_1" in p.cmdline()
    )
    # /proc shows the environment that a process was started with: of a fork that of the process that forks.
    assert "LOCAL_RANK" not in other.environ(), "it has imported everything anew"
    return process, other


def test_the_second_is_killed(place):
    folder = place / "second"
    first, second = started(folder)
    second.kill()
    began = time.monotonic()
    assert first.wait(timeout=60) == 1
    assert time.monotonic() - began < 60
    reason = "rank 1 was killed by SIGKILL (out of memory?)"
    assert f"error: {reason}" in (folder / "output.log").read_text()
    run = run_folder(folder)
    assert (run / "failure.txt").read_text() == f"RankDiedError: {reason}"
    _, tracked = curves(folder)
    assert (tracked.info.status, tracked.data.tags["failure_reason"]) == ("FAILED", f"RankDiedError: {reason}")
    assert newest_valid(run / "checkpoints").name == "last.ckpt"
    assert_equal(state(finish(folder, *TWO)), state(finish(place / "whole", *TWO)))
    assert not list(run.glob("failure*"))


def test_the_first_is_killed(place):
    first, second = started(place / "first")
    first.kill()
    assert first.wait() == -signal.SIGKILL
    psutil.wait_procs([second], timeout=60)
    assert not second.is_running()


def test_one_that_hangs_is_told_why_before_it_ends(tmp_path, monkeypatch):
    """As under NCCL, where the first process waits on; its end would end this test."""
    told = []
    ended = ranks.threading.Event()
    monkeypatch.setattr(ranks, "NOTICE_S", 0.1)
    monkeypatch.setattr(ranks.os, "_exit", lambda code: ended.set())
    watch = ranks.Watch(tmp_path, told.append)
    dead, alive = (ranks.subprocess.Popen(["sh", "-c", command]) for command in ("exit 3", "sleep 60"))
    watch.over([dead, alive])
    assert ended.wait(timeout=10)
    watch.over_now.set()
    assert told[0] == "rank 1 ended with exit code 3"
    assert alive.wait(timeout=10) == -signal.SIGKILL


def test_an_error_of_the_first_itself_stays_its_own(tmp_path):
    with pytest.raises(ValueError, match="mine"), ranks.together(tmp_path, print):
        raise ValueError("mine")
