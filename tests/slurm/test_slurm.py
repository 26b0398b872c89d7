"""Sweeps, several processes and nodes, faults and requeue under a real SLURM of two nodes: `make test-slurm`.

Each case's losses are those of the same run without SLURM, bit by bit.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.results import took_its_steps
from tests.robustness.runs import STEPS, assert_equal, command, finish, metrics_of, run_folder, start, state, step_of
from tests.runtime.test_tracking import free_port
from tests.slurm import cluster

SWEEP = ["-m", "hydra/launcher=slurm", "hydra.launcher.timeout_min=10"]
TWO = ["trainer=ddp_cpu", "trainer.devices=2"]
NODES = ["trainer=ddp_cpu", "trainer.num_nodes=2", "trainer.devices=1"]
LIMIT_S = 300


@pytest.fixture(scope="module", autouse=True)
def conf():
    with cluster.kept() as path, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", path)
        # Single-threaded, as the runs without SLURM.
        patch.setenv("OMP_NUM_THREADS", "1")
        yield path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def alone(place):
    """run folder of overrides -> the same on this machine, without SLURM."""
    made = {}

    def run(*overrides):
        if overrides not in made:
            made[overrides] = finish(place / f"alone{len(made)}", *overrides)
        return made[overrides]

    return run


def losses(run):
    """[(step, loss)] of a run's journal."""
    points = [
        p for line in (run / "tracking.jsonl").read_text().splitlines() for p in json.loads(line).get("points", ())
    ]
    return sorted((step, value) for name, value, _, step in points if name == "train/loss")


def same(case, run, other, *, equal_to):
    found, expected = losses(run), losses(other)
    assert [step for step, _ in found] == [step for step, _ in expected] == list(range(STEPS)), "every step once"
    difference = max(abs(a - b) for (_, a), (_, b) in zip(found, expected, strict=True))
    told = dict(on="SLURM of 2 nodes", steps=STEPS, equal_to=equal_to, difference=difference, limit=0.0)
    took_its_steps(f"slurm: {case}", **told, command="make test-slurm")
    assert_equal(state(run), state(other))


def jobs(folder):
    """[(overrides that were swept, status, reason, run folder)] of all that a sweep noted."""
    (path,) = folder.glob("runs/**/sweep.jsonl")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [(e["overrides"], e["status"], e["reason"], path.parent / e["folder"]) for e in entries]


def swept(folder, *overrides, code=0):
    assert start(folder, *SWEEP, *overrides).wait(timeout=LIMIT_S) == code, said(folder)
    return jobs(folder)


def said(folder):
    return (folder / "output.log").read_text()


def ask(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_a_sweep(place, alone):
    found = swept(place / "sweep", "seed=1,2")
    assert [status for _, status, _, _ in found] == ["done", "done"], "each noted once"
    for seed, (_, _, _, run) in zip((1, 2), sorted(found, key=lambda job: job[0]), strict=True):
        same(f"a sweep, seed {seed}", run, alone(f"seed={seed}"), equal_to="the run without SLURM")
    assert "sacct" not in said(place / "sweep")


@pytest.mark.parametrize(("case", "overrides"), [("DDP", TWO), ("two nodes", NODES)])
def test_several_processes_in_a_sweep(case, overrides, place, alone):
    ((_, status, _, run),) = swept(place / case, *overrides)
    assert status == "done", "noted once"
    same(f"{case} in a sweep", run, alone(*TWO), equal_to="two processes without SLURM")


def side_by_side(folder, *prefixes):
    """`main.py` on two nodes, started by each of the prefixes; the run's folder."""
    folder.mkdir()
    with open(folder / "output.log", "ab") as output:
        started = [
            subprocess.Popen([*prefix, *command(folder, *NODES)], cwd=folder, stdout=output, stderr=output)
            for prefix in prefixes
        ]
    try:
        assert [process.wait(timeout=LIMIT_S) for process in started] == [0] * len(started), said(folder)
    finally:
        for process in started:
            process.kill()
    return run_folder(folder)


def test_two_nodes_through_srun(place, alone):
    run = side_by_side(place / "srun", ["srun", "--nodes=2", "--ntasks-per-node=1"])
    same("two nodes through srun", run, alone(*TWO), equal_to="two processes without SLURM")


def test_torchrun_with_two_nodes_on_loopback(place, alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--no-python"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    run = side_by_side(place / "torchrun", *([*torchrun, f"--node-rank={node}"] for node in (0, 1)))
    same("torchrun with two nodes on loopback", run, alone(*TWO), equal_to="two processes without SLURM")


def at_step(process, folder, step):
    """The run's folder, once it has logged this step."""
    end = time.monotonic() + LIMIT_S
    while step_of(folder) < step:
        assert process.poll() is None and time.monotonic() < end, said(folder)
        time.sleep(0.01)


def test_one_job_raises_and_one_is_killed(conf, place, alone):
    folder = place / "faults"
    process = start(folder, *SWEEP, "optimizer.lr=1e30,0.002,0.001")
    found, end = [], time.monotonic() + LIMIT_S
    while not found:
        assert process.poll() is None and time.monotonic() < end, said(folder)
        time.sleep(0.05)
        for task in cluster.belonging(Path(conf)):
            with contextlib.suppress(psutil.Error, StopIteration):
                words = task.cmdline()
                run = next(Path(w.removeprefix("hydra.run.dir=")) for w in words if w.startswith("hydra.run.dir="))
                journal = run / "tracking.jsonl"
                if words[0] == sys.executable and "optimizer.lr=0.002" in words and journal.is_file() and losses(run):
                    found.append(task)
    found[0].send_signal(signal.SIGKILL)
    assert process.wait(timeout=LIMIT_S) == 1
    ends = {overrides[-1]: (status, reason, run) for overrides, status, reason, run in jobs(folder)}
    assert [ends[f"optimizer.lr={lr}"][0] for lr in ("1e+30", "0.002", "0.001")] == ["failed", "failed", "done"]
    raised, killed = ends["optimizer.lr=1e+30"][1], ends["optimizer.lr=0.002"][1]
    assert raised.startswith("NonFiniteLossError: loss is nan")
    assert killed.startswith("killed by SIGKILL (out of memory?), rank 0 on 127.0.0.")
    # The terminal says it, whatever its width.
    told = "".join(said(folder).split())
    assert all("".join(reason.split()) in told for reason in (raised, killed))
    same(
        "one job raises, one is killed", ends["optimizer.lr=0.001"][2], alone("seed=1"), equal_to="the third job alone"
    )


def test_requeue_in_the_middle(place, alone):
    folder = place / "requeue"
    # Once: what it has saved since is not cleared away a second time.
    process = start(folder, *SWEEP, *TWO, "fresh=true")
    at_step(process, folder, 12)
    (number,) = ask("squeue", "--noheader", "--format=%A").split()
    ask("scontrol", "requeue", number)
    assert process.wait(timeout=LIMIT_S) == 0, said(folder)
    ((_, status, _, run),) = jobs(folder)
    assert status == "done"
    assert "Going on from" in (run / "console.log").read_text()
    same("requeue in the middle", run, alone(*TWO), equal_to="two processes without SLURM")
    assert metrics_of(run) == metrics_of(alone(*TWO))


def outside():
    roots = [Path(root) for root in ("/etc/slurm", "/var/spool", "/var/log", "/var/lib", "/run")]
    return {path for root in roots for name in ("slurm*", "munge*") for path in root.glob(f"{name}/**/*")}


def test_a_killed_owner_leaves_no_process_and_no_file():
    before = outside()
    code = """
import time
from tests.slurm import cluster
with cluster.kept() as conf:
    print(conf, flush=True)
    time.sleep(99)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=cluster.PROJECT, stdout=subprocess.PIPE, text=True)
    conf = Path(owner.stdout.readline().strip())
    assert len(list(cluster.belonging(conf))) == 4
    owner.kill()
    owner.wait()
    cluster.until(lambda: not conf.parent.exists(), "its folder goes", seconds=60)
    assert list(cluster.belonging(conf)) == []
    assert outside() == before
