"""Starts a small real run, kills it at a chosen moment, starts it again, and tells what it left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from mlflow import MlflowClient

from tests import forks
from tests.tracking import database

PROJECT = Path(__file__).parents[2]
STEPS = 40
# Dropout, odd validation and checkpoint intervals, a log line every step: whatever a resume could get wrong.
SETTINGS = ["debug=smoke", f"trainer.max_steps={STEPS}", "trainer.val_check_interval=7", "trainer.log_every_n_steps=1"]
SETTINGS += ["callbacks.resume_point.every_n_steps=5", "model.dropout=0.1", "trainer.enable_progress_bar=false"]
# Drawn once all is over, and no part of what is compared.
SETTINGS += ["experiment_name=test/kill", "data.workers=0", "look.page=false", "callbacks.figures=null"]
CLOCKED = ("train/tokens_per_s", "system/")


def command(folder, *overrides):
    # The caches of all runs of a test are shared; only runs/ and the database differ.
    flags = [o for o in overrides if o.startswith("-")]
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking")] + [f"paths.cache={folder.parent}/cache"]
    # What a test sets goes in the place of what all have: a key may be given once.
    settings = {o.partition("=")[0]: o for o in (*SETTINGS, *places, *overrides) if o not in flags}
    return [sys.executable, str(PROJECT / "main.py"), *flags, *settings.values()]


def start(folder, *overrides, really=False):
    """really: by a process of its own that imports everything and makes the database; else forked (tests/forks.py)."""
    folder.mkdir(parents=True, exist_ok=True)
    if not really:
        database(folder / "tracking")
    output = open(folder / "output.log", "ab")  # noqa: SIM115, the child's
    settings = {"cwd": folder, "stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
    return forks.Popen(command(folder, *overrides), really=really, **settings)


def finish(folder, *overrides, really=False):
    code = start(folder, *overrides, really=really).wait(timeout=300)
    assert code == 0, (folder / "output.log").read_text()[-3000:]
    return run_folder(folder)


def run_folder(folder):
    (found,) = {p.parent for p in folder.glob("runs/**/tracking.jsonl")}
    return found


def step_of(folder):
    """Last step in the journal, -1 before there is one."""
    paths = list(folder.glob("runs/**/tracking.jsonl"))
    lines = [line for p in paths for line in p.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    steps = [p[3] for line in lines for p in json.loads(line).get("points", ()) if p[0] == "train/loss"]
    return max(steps, default=-1)


def kill_at(folder, step, *overrides, number=signal.SIGKILL, really=False):
    """Start the run and send its whole process group `number` once it has logged `step`; its exit code."""
    process = start(folder, *overrides, really=really)
    while process.poll() is None and step_of(folder) < step:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, number)
    return process.wait(timeout=120)


def state(run):
    """Everything of the last checkpoint that a resumed run must have alike."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "random_states", "global_step")
    return {name: checkpoint[name] for name in kept}


def assert_equal(a, b, where=""):
    """Bitwise, tensors and containers alike."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert a == b, where


def curves(folder):
    """{metric: [(step, value)]} as MLflow has them, each point as often as it is there; the run's status."""
    client = MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    names = [name for name in run.data.metrics if not name.startswith(CLOCKED)]
    points = {n: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)) for n in names}
    return points, run


def metrics_of(run):
    found = json.loads((run / "result.json").read_text())["metrics"]
    return {name: value for name, value in found.items() if not name.startswith(CLOCKED)}
