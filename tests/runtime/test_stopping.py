"""A sweep, a run and `make claims` that are asked to stop, at whatever moment."""

import os
import signal
import subprocess
import sys

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from lightning_modules.claims import run as claims_run
from lightning_modules.claims.claim import Job
from lightning_modules.common.lock import HELD
from lightning_modules.runtime import sweep
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.training.stop import Preempted

NOT_DONE = "lightning_modules.runtime.sweep_report.not_done"
TELL = f"import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os._exit({128 + signal.SIGTERM})); "
FROM_WITHIN = TELL + f"os.kill({os.getpid()}, signal.{{}}); time.sleep(60)"


@pytest.fixture(autouse=True)
def own_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ask(number):
    return lambda *_: os.kill(os.getpid(), number)


class Sweep:
    """Jobs that are a line of Python each; Hydra's part is a loop that goes on after an Exception, as its own does."""

    def __init__(self, folder, monkeypatch, together=1, forked=False):
        self.folder, self.together, self.noted, self.during_note = folder, together, [], lambda: None
        self.cfg = OmegaConf.create(
            {"hydra": {"sweep": {"dir": str(folder)}, "launcher": {}}, "logger": None, "fresh": True}
        )
        monkeypatch.setattr(sweep.forks, "possible", lambda _: forked)
        monkeypatch.setattr(sweep.forks, "PRELOAD", "json")
        fork = sweep.forks.Fork
        monkeypatch.setattr(sweep.forks, "Fork", lambda *_, **told: fork([sys.executable, self.script()], **told))
        monkeypatch.setattr(sweep, "wish", sweep.Wish())
        monkeypatch.setattr(sweep.outcome, "note", self.note)
        monkeypatch.setenv(sweep.SWEEP, str(folder))
        monkeypatch.setattr(NOT_DONE, lambda _: [])
        monkeypatch.setattr(sweep, "page", lambda *_: None)
        monkeypatch.setattr(HydraConfig, "get", lambda: self.hydra)
        started = subprocess.Popen
        monkeypatch.setattr(sweep.subprocess, "Popen", lambda *_, **__: started([sys.executable, "-c", self.line]))

    def script(self):
        (self.folder / "job.py").write_text(self.line)
        return str(self.folder / "job.py")

    def note(self, cfg, folder, overrides, *, status, reason="", mine=True):
        self.during_note()
        self.noted.append((folder.name, status))
        return 0.0

    def run(self, *lines):
        def main():
            failures = []
            for number, self.line in enumerate(lines):
                place = {"runtime": {"output_dir": str(self.folder / f"job{number}")}, "job": {"num": number}}
                self.hydra = OmegaConf.create(
                    {**place, "overrides": {"task": []}, "launcher": {"n_jobs": self.together}}
                )
                try:
                    sweep.job(self.cfg)
                except Exception as error:
                    failures.append(error)
            if failures:
                sys.exit(1)

        return sweep.run(self.cfg, main)


def test_who_is_no_part_of_a_sweep_is_not_told(tmp_path, monkeypatch):
    """As ranks that tests share: they were killed so, and waited for until the time was up."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        of = Sweep(tmp_path, monkeypatch)
        of.during_note = ask(signal.SIGTERM)
        assert of.run("", "") == 130
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ignored", [False, True], ids=["", "ignored by a shell's background"])
@pytest.mark.parametrize("forked", [False, True], ids=["command", "fork"])
def test_while_a_job_works(tmp_path, monkeypatch, number, ignored, forked):
    if ignored:
        signal.signal(number, signal.SIG_IGN)
    of = Sweep(tmp_path, monkeypatch, forked=forked)
    assert of.run(FROM_WITHIN.format(number.name), "") == 130
    assert of.noted == [("job0", "stopped")]


@pytest.mark.parametrize(("line", "status"), [("", "done"), ("exit(3)", "failed"), (f"exit({HELD})", "failed")])
@pytest.mark.parametrize("forked", [False, True], ids=["command", "fork"])
def test_after_the_job_has_ended_its_outcome_stays(tmp_path, monkeypatch, line, status, forked):
    of = Sweep(tmp_path, monkeypatch, forked=forked)
    of.during_note = ask(signal.SIGINT)
    assert of.run(line, "") == 130
    assert of.noted == [("job0", status)]


def test_when_the_note_fails_as_well(tmp_path, monkeypatch):
    def fail():
        ask(signal.SIGINT)()
        raise RuntimeError("database is locked")

    of = Sweep(tmp_path, monkeypatch)
    of.during_note = fail
    assert of.run("", "") == 130


def test_before_the_first_job(tmp_path, monkeypatch):
    of = Sweep(tmp_path, monkeypatch)
    monkeypatch.setattr(sweep, "start", ask(signal.SIGTERM))
    assert of.run("") == 130
    assert of.noted == []


def test_after_the_last_job(tmp_path, monkeypatch):
    of = Sweep(tmp_path, monkeypatch)
    monkeypatch.setattr(NOT_DONE, lambda _: ask(signal.SIGINT)() or [])
    assert of.run("") == 130
    assert of.noted == [("job0", "done")]


@pytest.mark.parametrize("forked", [False, True], ids=["command", "fork"])
def test_side_by_side_nothing_is_raised_and_nothing_more_begins(tmp_path, monkeypatch, forked):
    of = Sweep(tmp_path, monkeypatch, together=2, forked=forked)
    assert of.run(FROM_WITHIN.format("SIGTERM"), "", "") == 130
    assert of.noted == [("job0", "stopped")]


def test_a_job_stopped_alone_stops_no_other(tmp_path, monkeypatch):
    of = Sweep(tmp_path, monkeypatch)
    assert of.run(f"exit({128 + signal.SIGTERM})", "") == 0
    assert of.noted == [("job0", "stopped"), ("job1", "done")]


def test_ctrl_c_that_is_handed_on_is_one_wish(tmp_path):
    """The terminal tells the job SIGINT and its sweep tells it SIGTERM: it saves. A second Ctrl-C does not wait."""
    point = ResumePoint(folder=str(tmp_path))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        point._ask_to_stop(number, None)
    with pytest.raises(Preempted, match="stopped by SIGINT; the same command goes on from what was saved last"):
        point._ask_to_stop(signal.SIGINT, None)


def test_claims_tell_every_run_and_begin_no_other(tmp_path, monkeypatch):
    begun, started = [], subprocess.Popen

    def popen(*_, **rest):
        # The wish comes between the start of a process and the next line.
        begun.append(started([sys.executable, "-c", "import time; time.sleep(60)"], **rest))
        ask(signal.SIGINT)()
        return begun[-1]

    monkeypatch.setattr(claims_run.subprocess, "Popen", popen)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        claims_run.run_all([Job((f"a={n}",), 1) for n in range(4)], together=1, runs=tmp_path)
    assert [process.wait(timeout=10) for process in begun] == [-signal.SIGTERM]
