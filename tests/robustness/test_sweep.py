"""A sweep outlives its jobs, is skipped where it is done, grows where it is extended, and stops where it is told to."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from omegaconf import OmegaConf

from tests.robustness.runs import start

BASE = ["-m", "trainer.max_steps=10", "trainer.val_check_interval=5", "experiment_name=test/sweep"]


def sweep(folder, *overrides, code=0, really=False, base=BASE):
    process = start(folder, *base, *overrides, really=really)
    assert process.wait(timeout=300) == code, (folder / "output.log").read_text()[-3000:]
    return folder / "runs" / "test" / "sweep"


def jobs(folder):
    """{overrides that tell a job apart: (status, reason)}, the last word on each."""
    lines = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    return {tuple(e["overrides"][-2:]): (e["status"], e["reason"]) for e in lines}


def mlflow_runs(folder):
    client = MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "test/sweep"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    return client, parents, [r for r in runs if r not in parents]


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """Three jobs that work and one whose settings are wrong only together, so that preflight lets the sweep start."""
    folder = tmp_path_factory.mktemp("sweep") / "failing"
    sweep(folder, "data.micro_batch=4,8", "data.global_batch=32,36", code=1)
    return folder


def test_one_bad_job_fails_alone_with_its_reason(failing):
    found = jobs(failing / "runs" / "test" / "sweep")
    status = {key: value[0] for key, value in found.items()}
    assert status == {
        ("data.micro_batch=4", "data.global_batch=32"): "done",
        ("data.micro_batch=4", "data.global_batch=36"): "done",
        ("data.micro_batch=8", "data.global_batch=32"): "done",
        ("data.micro_batch=8", "data.global_batch=36"): "failed",
    }
    reason = found["data.micro_batch=8", "data.global_batch=36"][1]
    assert reason.startswith("data.global_batch is 36 sequences; expected a multiple of")
    _, (parent,), children = mlflow_runs(failing)
    assert len(children) == 3, "a job whose config is wrong opens no run"
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert parent.info.status == "FAILED"
    assert (parent.data.tags["jobs.done"], parent.data.tags["jobs.failed"]) == ("3", "1")


def test_a_failed_job_of_a_search_is_a_failed_trial_and_the_search_goes_on(tmp_path):
    """To its end, where none came to a number too."""
    small = [
        "trainer.max_steps=3",
        "data.vocab_size=300",
        "data.seq_len=8",
        "data.micro_batch=1",
        "data.global_batch=2",
    ]
    small += ["data.eval_windows=1", "trainer.val_check_interval=null", "experiment_name=test/sweep", "look.page=false"]
    lrs = "optimizer.lr=tag(log,interval(1e8,1e9))"
    folder = sweep(tmp_path, "hydra/sweeper=search", "hydra.sweeper.n_trials=2", lrs, code=1, base=["-m", *small])
    lines = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["failed", "failed"]
    said = (tmp_path / "output.log").read_text()
    assert "2 of the sweep's jobs not done" in said
    assert "Values cannot be specified" not in said
    assert said.endswith("No trial of the search came to a number: there is no best one.\n")
    _, (parent,), children = mlflow_runs(tmp_path)
    assert {run.info.status for run in (parent, *children)} == {"FAILED"}


def test_the_report_has_every_setting_and_the_failure(failing):
    client, (parent,), _ = mlflow_runs(failing)
    assert {"report.md", "report.png"} <= {f.path for f in client.list_artifacts(parent.info.run_id)}
    text = (failing / "runs" / "test" / "sweep" / "report.md").read_text()
    assert "3 of 4 jobs done" in text
    assert "| data.micro_batch=4 data.global_batch=36 | 1 |" in text
    assert "## Not done" in text
    assert "data.global_batch is 36 sequences" in text


def training(process, *overrides):
    """The job's process, once it has logged a training loss."""
    runs = Path(next(a.removeprefix("paths.runs=") for a in process.args if a.startswith("paths.runs=")))
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        for place in (p.parent for p in runs.glob("**/tracking.jsonl") if "train/loss" in p.read_text()):
            if set(overrides) <= set(OmegaConf.load(place / ".hydra" / "overrides.yaml")):
                holder = max(place.glob("lock.*"), key=lambda path: int(path.suffix[1:])).read_text()
                below = {p.pid: p for p in psutil.Process(process.pid).children(recursive=True)}
                if holder and (found := below.get(json.loads(holder)["pid"])):
                    return found
        time.sleep(0.05)
    raise AssertionError("no such job began in two minutes")


def test_a_job_that_raises_and_one_that_is_killed(tmp_path):
    folder = tmp_path / "killed"
    settings = ["trainer.max_steps=5000", "optimizer.lr=1e30,0.001", "seed=1,2"]
    process = start(folder, *BASE, *settings, really=True)
    # Both seeds of 1e30 raise; of 0.001 the first is killed by hand and the second is stopped with the sweep.
    training(process, "optimizer.lr=0.001", "seed=1").send_signal(signal.SIGKILL)
    training(process, "optimizer.lr=0.001", "seed=2")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    found = jobs(folder / "runs" / "test" / "sweep")
    assert len([value for value in found.values() if "NonFiniteLossError" in value[1]]) == 2
    assert ("failed", "killed by SIGKILL (out of memory?)") in found.values()
    assert [value[0] for value in found.values()].count("stopped") == 1
    _, (parent,), children = mlflow_runs(folder)
    status = sorted(c.info.status for c in children)
    assert status == ["FAILED", "FAILED", "FAILED", "KILLED"], "none is left RUNNING"
    assert all(c.data.tags["failure_reason"] for c in children)
    assert parent.info.status == "KILLED"


def test_again_skips_and_extended_adds(tmp_path):
    folder = tmp_path / "grow"
    place = sweep(folder, "seed=1,2")
    before = {p: p.stat().st_mtime_ns for p in place.glob("*/result.json")}
    assert len(before) == 2
    sweep(folder, "seed=1,2,3")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(list(place.glob("*/result.json"))) == 3
    assert (folder / "output.log").read_text().count("Already done") == 2
    _, parents, children = mlflow_runs(folder)
    assert len(parents) == 1, "the extended sweep goes on in the parent run of before"
    assert len(children) == 3
    assert parents[0].info.status == "FINISHED"
    assert "3 of 3 jobs done" in (place / "report.md").read_text()


def test_jobs_side_by_side_share_the_cores(tmp_path):
    folder = tmp_path / "joblib"
    place = sweep(folder, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=1,2", really=True)
    assert len(list(place.glob("*/result.json"))) == 2
    assert len(list(place.glob("*/console.log"))) == 2
    _, parents, children = mlflow_runs(folder)
    assert len(parents) == 1
    assert {c.info.status for c in children} == {"FINISHED"}
