"""What a job of a sweep asks SLURM for, and how it ended, without a SLURM: `make test-slurm` has a real one."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
from lightning_fabric.plugins.environments import SLURMEnvironment

from lightning_modules.runtime import cluster, outcome, preflight, slurm
from lightning_modules.runtime.config import register_resolvers
from tests.runtime.cli import PROJECT

register_resolvers(project=PROJECT)
SMOKE = ["debug=smoke", "hydra/launcher=slurm"]
GPUS = ["trainer=ddp_gpu", "data.global_batch=64"]


def composed(*overrides):
    errors, cfg = preflight.examine([*SMOKE, *overrides])
    assert errors == []
    return cfg


def needs(*overrides):
    cfg = composed(*overrides)
    return tuple(slurm.needs(cfg, cfg.hydra.launcher).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (1, 1, 1, None)),
        (["trainer=ddp_cpu", "trainer.devices=2"], (1, 2, 1, None)),
        (["trainer=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=2", "threads=3"], (2, 2, 3, None)),
        ([*GPUS, "trainer.devices=8", "trainer.num_nodes=2", "data.workers=4"], (2, 8, 5, 8)),
        ([*GPUS, "hydra.launcher.gpus_per_node=4"], (1, 4, 1, 4)),
        (["trainer=ddp_cpu", "trainer.devices=2", "hydra.launcher.tasks_per_node=1"], (1, 1, 1, None)),
        ([*GPUS, "trainer.devices=2", "hydra.launcher.cpus_per_task=7", "hydra.launcher.nodes=3"], (3, 2, 7, 2)),
    ],
)
def test_what_a_job_needs_follows_from_its_trainer(overrides, expected):
    assert needs(*overrides) == expected


def test_as_many_gpus_as_there_are_is_not_known_before_the_job_runs():
    (error,), _ = preflight.examine([*SMOKE, *GPUS])
    assert error.startswith("trainer.devices is auto, and how many GPUs a node of the cluster has is not known here;")


class Scheduler:
    """Answers as SLURM's commands do. `ends` are the states in which its jobs end, one after the other."""

    def __init__(self, *ends, log=""):
        self.ends, self.log, self.asked, self.running, self.over = list(ends), log, [], [], {}

    def __call__(self, command, *, input=None, **_):
        self.asked.append((list(command), input))
        answer = {"returncode": 0, "stdout": "", "stderr": "", **(getattr(self, command[0])(command) or {})}
        return SimpleNamespace(**answer)

    def sbatch(self, command):
        self.running.append(str(len(self.asked)))
        self.folder = next(c.removeprefix("--output=") for c in command if c.startswith("--output="))
        return {"stdout": self.running[-1]}

    def squeue(self, command):
        there = " ".join(self.running)
        for number in self.running:
            self.over[number] = self.ends.pop(0)
            with open(self.folder, "a") as log:
                log.write(f"{slurm.STARTED}{number}\n{self.log}")
        self.running = []
        return {"stdout": there}

    def scontrol(self, command):
        if command[-1] not in self.over:
            return {"returncode": 1, "stderr": "slurm_load_jobs error: Invalid job id specified"}
        state, _, code = self.over[command[-1]].partition(" ")
        return {
            "stdout": f"JobId={command[-1]} JobState={state} Reason=None Requeue=1 ExitCode={code or '0:0'} RunTime=1"
        }

    def scancel(self, command):
        self.over |= dict.fromkeys(command[1:], "CANCELLED 0:15")
        self.running = []

    def times(self, name):
        return sum(command[0] == name for command, _ in self.asked)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """run(scheduler, ...) -> what was noted of one job of a sweep, whatever SLURM makes of it."""
    noted = []
    monkeypatch.setattr(cluster, "LATE_S", 0)
    monkeypatch.setattr(cluster, "PAUSE_S", 0)

    def note(cfg, folder, overrides, *, status, reason="", mine=True):
        noted.append((status, reason))
        return 0.5 if status == "done" else None

    def run(scheduler, *overrides, told=lambda: False, result=False, command=("python", "main.py", "a=[b c]")):
        monkeypatch.setattr(slurm.subprocess, "run", scheduler)
        monkeypatch.setattr(outcome, "note", note)
        cfg = composed(*overrides)
        if result:
            (tmp_path / "result.json").write_text("{}")
        of = cluster.Cluster(told)
        of.take(cluster.Job(cfg, dict(cfg.hydra.launcher), tmp_path, ["seed=1"], list(command)))
        of.wait()
        return noted

    return run


def test_what_is_submitted_is_what_lightning_expects_to_find(sweep, monkeypatch):
    scheduler = Scheduler("COMPLETED")
    overrides = ["trainer=ddp_cpu", "trainer.devices=2", "trainer.num_nodes=2", "hydra.launcher.partition=long"]
    noted = sweep(scheduler, *overrides, "+hydra.launcher.additional_parameters.mail_type=END", result=True)
    assert noted == [("done", "")]
    (command, script), *_ = scheduler.asked
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in command[1:] if "=" in flag)
    assert (flags["partition"], flags["mail-type"], flags["time"]) == ("long", "END", "1440")
    assert script.endswith("srun --cpus-per-task=1 --kill-on-bad-exit=1 python main.py 'a=[b c]'\n")
    told = {"NTASKS": "4", "NTASKS_PER_NODE": flags["ntasks-per-node"], "NNODES": flags["nodes"], "JOB_NAME": "job"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    SLURMEnvironment().validate_settings(num_devices=2, num_nodes=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "log", "status", "reason"),
    [
        ("COMPLETED", "", "failed", "it left no result.json in "),
        ("FAILED 1:0", "", "failed", "exit code 1"),
        (
            "FAILED 1:0",
            "ImportError: no x\nsrun: error: n1: task 0: Exited with exit code 1\n",
            "failed",
            "ImportError: no x",
        ),
        ("FAILED 0:9", "", "failed", "killed by SIGKILL (out of memory?)"),
        # Of several tasks, the first that died; the others were ended by srun and exited as the job does.
        (
            "FAILED 143:0",
            "srun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Exited with exit code 143\n",
            "failed",
            "killed by SIGKILL (out of memory?), rank 1 on n2",
        ),
        (
            "FAILED 143:0",
            "srun: error: n2: task 3: Exited with exit code 1\nsrun: error: n1: tasks 0-2: Terminated\n",
            "failed",
            "(first: rank 3 on n2, see ",
        ),
        (
            "FAILED 143:0",
            "srun: error: n1: tasks 0-1: Exited with exit code 143\n",
            "stopped",
            "stopped; the same command",
        ),
        ("CANCELLED 0:15", "", "stopped", "SLURM ended it as CANCELLED; the same command goes on"),
        ("TIMEOUT", "", "stopped", "SLURM ended it as TIMEOUT; the same command goes on"),
        ("NODE_FAIL", "", "failed", "SLURM ended it as NODE_FAIL"),
    ],
)
def test_how_a_job_ended_is_noted_once_with_its_reason(sweep, end, log, status, reason):
    ((noted, said),) = sweep(Scheduler(end, log=log))
    assert noted == status
    assert reason in said


def test_an_end_that_slurm_has_forgotten_is_told_by_the_result(sweep):
    scheduler = Scheduler("COMPLETED")
    scheduler.over.clear()
    scheduler.scontrol = lambda _: {"returncode": 1, "stderr": "slurm_load_jobs error: Invalid job id specified"}
    assert sweep(scheduler, result=True) == [("done", "")]


def test_a_job_whose_time_was_up_is_submitted_again_as_often_as_allowed(sweep):
    scheduler = Scheduler("TIMEOUT", "FAILED 143:0", "TIMEOUT", "COMPLETED")
    noted = sweep(scheduler, "hydra.launcher.resubmissions=2", result=True)
    assert scheduler.times("sbatch") == 3
    assert [status for status, _ in noted] == ["stopped"]


@pytest.mark.parametrize("began", [True, False])
def test_a_job_submitted_again_begins_nothing_anew_that_it_has_begun(sweep, tmp_path, began):
    """Its time may have been up while it waited."""
    scheduler = Scheduler("TIMEOUT", "TIMEOUT", "COMPLETED")

    def sbatch(command):
        answer = Scheduler.sbatch(scheduler, command)
        by = answer["stdout"] if began and scheduler.times("sbatch") == 1 else "of before"
        if not (tmp_path / "begun.json").is_file():
            (tmp_path / "begun.json").write_text(json.dumps({"config": {}, "files": {}, "job": by}))
        return answer

    scheduler.sbatch = sbatch
    given = ["python", "main.py", "fresh=true", "seed=1"]
    assert sweep(scheduler, "hydra.launcher.resubmissions=2", result=True, command=given) == [("done", "")]
    scripts = [script for (name, *_), script in scheduler.asked if name == "sbatch"]
    later = "main.py seed=1 fresh=false\n" if began else "main.py fresh=true seed=1\n"
    assert scripts[0].endswith("main.py fresh=true seed=1\n")
    assert [script.endswith(later) for script in scripts[1:]] == [True, True]


def test_what_sbatch_refuses_the_second_time_is_noted_of_that_job(sweep):
    scheduler = Scheduler("TIMEOUT")
    refused = {"returncode": 1, "stderr": "sbatch: error: account is over its limit\n"}
    scheduler.sbatch = lambda command: refused if scheduler.over else Scheduler.sbatch(scheduler, command)
    ((status, reason),) = sweep(scheduler, "hydra.launcher.resubmissions=2")
    assert status == "failed"
    assert reason.startswith("not submitted again: sbatch: error: account is over its limit")


def test_a_sweep_that_is_told_cancels_its_jobs_and_notes_them(sweep):
    scheduler = Scheduler("COMPLETED")
    noted = sweep(scheduler, "hydra.launcher.resubmissions=2", told=lambda: True)
    assert (scheduler.times("scancel"), scheduler.times("sbatch")) == (1, 1)
    assert noted == [("stopped", "SLURM ended it as CANCELLED; the same command goes on")]


def test_a_job_of_a_sweep_that_was_killed_is_waited_for_again(sweep, tmp_path):
    (tmp_path / cluster.NUMBER).write_text("7")
    scheduler = Scheduler("COMPLETED")
    scheduler.running, scheduler.folder = ["7"], tmp_path / slurm.LOG
    assert sweep(scheduler, result=True) == [("done", "")]
    assert scheduler.times("sbatch") == 0


def adopted(tmp_path, *ends):
    (tmp_path / cluster.NUMBER).write_text("7")
    scheduler = Scheduler(*ends)
    scheduler.running, scheduler.folder = ["7"], tmp_path / slurm.LOG
    return scheduler


def test_it_counts_as_submitted_once(sweep, tmp_path):
    scheduler = adopted(tmp_path, "TIMEOUT")
    assert [status for status, _ in sweep(scheduler)] == ["stopped"]
    assert scheduler.times("sbatch") == 0


def test_a_scheduler_that_does_not_answer_is_asked_again(sweep, tmp_path):
    scheduler = adopted(tmp_path, "COMPLETED")
    silent = [{"returncode": 1}] * 2
    scheduler.squeue = lambda command: silent.pop() if silent else Scheduler.squeue(scheduler, command)
    assert sweep(scheduler, result=True) == [("done", "")]
    assert scheduler.times("sbatch") == 0


def test_one_that_never_answers_gets_no_second_job_for_the_folder(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "SILENT_S", 0.01)
    scheduler = adopted(tmp_path)
    scheduler.squeue = lambda _: {"returncode": 1}
    with pytest.raises(cluster.SilentError, match="squeue does not answer"):
        sweep(scheduler)
    assert scheduler.times("sbatch") == 0


def test_what_sbatch_refuses_names_what_was_asked_for(sweep):
    scheduler = Scheduler()
    scheduler.sbatch = lambda _: {
        "returncode": 1,
        "stderr": "sbatch: error: Requested node\nconfiguration is not available\n",
    }
    with pytest.raises(ValueError, match=r"is not available \(asked for nodes=1, tasks_per_node=2, cpus_per_task=1\)"):
        sweep(scheduler, "trainer=ddp_cpu", "trainer.devices=2")


def test_without_slurm_a_sweep_says_so(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ValueError, match="submits with sbatch, which is not on PATH"):
        slurm.is_there()


def test_a_number_of_a_signal_is_told_by_name(tmp_path):
    assert outcome.why(-signal.SIGSEGV, tmp_path) == outcome.why(128 + signal.SIGSEGV, tmp_path) == "killed by SIGSEGV"
    (tmp_path / "failure.txt").write_text("ValueError: x")
    assert outcome.why(1, tmp_path) == "ValueError: x"
