"""Processes that torchrun, srun or a person starts for one run: what one of them does is known to the others."""

import os
import threading

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import main as entry
from lightning_modules.common.lock import HELD, HeldError, Holder
from lightning_modules.runtime import launched, preflight, records, run, tracking
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.training.checkpoints import LAST, CheckedCheckpoints
from lightning_modules.training.stop import Preempted
from tests.runtime.cli import PROJECT

register_resolvers(project=PROJECT)
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TWO = ["debug=smoke", "trainer=ddp_cpu", "trainer.devices=2", "logger=none"]


def told(monkeypatch, **environment):
    for name in ("RANK", "LOCAL_RANK", "SLURM_STEP_ID", *TORCHRUN, *launched.AGAIN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def ended(monkeypatch):
    """wait(seconds) -> with what a process would have ended, None where it has not: its end would end the test."""
    codes, over = [], threading.Event()
    monkeypatch.setattr(launched, "LOOK_S", 0.05)
    monkeypatch.setattr(launched.os, "_exit", lambda code: (codes.append(code), over.set()))

    def wait(seconds):
        over.wait(seconds)
        return codes[0] if codes else None

    return wait


def leave(folder, error=None):
    if error is None:
        with launched.followed(folder):
            return
    with pytest.raises(type(error)), launched.followed(folder):
        raise error


HELD_BY = HeldError(PROJECT / "lock", Holder("host", "place", 1, 0.0, "now", "token"), 0.0)


@pytest.mark.parametrize(
    ("error", "code"), [(HELD_BY, HELD), (SystemExit(2), 2), (Preempted(15), 143), (KeyError("x"), 1), (None, 0)]
)
def test_where_the_first_leaves_before_they_have_met_the_others_do(tmp_path, monkeypatch, ended, capsys, error, code):
    told(monkeypatch, **TORCHRUN, RANK="0")
    leave(tmp_path, error)
    told(monkeypatch, **TORCHRUN, RANK="1")
    with launched.followed(tmp_path):
        assert ended(10) == code
    assert f"the first process has left with exit code {code}" in capsys.readouterr().err


def test_another_start_of_the_same_command_is_not_followed(tmp_path, monkeypatch, ended):
    told(monkeypatch, **{**TORCHRUN, "MASTER_PORT": "29501"}, RANK="0")
    leave(tmp_path, HELD_BY)
    told(monkeypatch, **TORCHRUN, RANK="1")
    with launched.followed(tmp_path):
        assert ended(0.3) is None


def test_an_earlier_start_is_not_followed(tmp_path, monkeypatch, ended):
    told(monkeypatch, **TORCHRUN, RANK="0")
    leave(tmp_path, SystemExit(2))
    os.utime(tmp_path / launched.LEFT, (0, 0))
    told(monkeypatch, **TORCHRUN, RANK="1")
    with launched.followed(tmp_path):
        assert ended(0.3) is None


def test_once_they_have_met_nothing_is_left_behind(tmp_path, monkeypatch):
    told(monkeypatch, **TORCHRUN, RANK="0")
    monkeypatch.setattr(launched, "_met", lambda: True)
    leave(tmp_path, SystemExit(1))
    assert not list(tmp_path.iterdir())


def composed(tmp_path, *overrides):
    arguments = [*TWO, f"hydra.run.dir={tmp_path / 'run'}", *overrides]
    errors, cfg = preflight.examine(arguments)
    assert errors == []
    return arguments, cfg


def test_that_a_run_is_done_is_seen_by_every_process(tmp_path, monkeypatch, capsys):
    told(monkeypatch, **TORCHRUN, RANK="1")
    monkeypatch.setattr(entry, "main", lambda: pytest.fail("it would wait for the first, which has left"))
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / records.RESULT).write_text('{"metrics": {}}')
    assert entry._do(*composed(tmp_path)) == 0
    assert "Already done" not in capsys.readouterr().err, "the first says so"


@pytest.mark.parametrize(
    ("restarts", "begun_by", "goes_on"), [("1", "7", True), ("0", "7", False), ("1", "6", False), ("1", None, False)]
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_is_begun_again_is_not_begun_anew(tmp_path, monkeypatch, rank, restarts, begun_by, goes_on):
    """begun_by: the job of SLURM's that began what is in the folder, None where nothing was."""
    given = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": rank}
    told(monkeypatch, SLURM_JOB_ID=begun_by or "", **given)
    arguments, cfg = composed(tmp_path, "fresh=true")
    if begun_by:
        (tmp_path / "run" / ".hydra").mkdir(parents=True)
        run.begun.keep(cfg, tmp_path / "run")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setattr(entry.sys, "argv", ["main.py", *arguments])
    monkeypatch.setattr(entry, "main", lambda: None)
    assert entry._do(arguments, cfg) == 0
    assert ("fresh=true" not in entry.sys.argv) == goes_on
    assert cfg.fresh != goes_on
    errors, again = preflight.examine(entry.sys.argv[1:])
    assert (errors, again.fresh) == ([], not goes_on)


def test_a_process_that_looks_before_the_first_has_cleared_the_folder_begins_anew_too(tmp_path, monkeypatch):
    class LookedError(Exception):
        pass

    def looked(*_, resume, **__):
        raise LookedError(resume)

    monkeypatch.setattr(run, "_work", looked)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    told(monkeypatch, **TORCHRUN, RANK="1")
    _, cfg = composed(tmp_path, "fresh=true")
    CheckedCheckpoints().save_checkpoint({"step": 1}, tmp_path / "run" / "checkpoints" / LAST)
    with pytest.raises(LookedError, match="None"):
        run._run(cfg, folder=tmp_path / "run", shown=tracking.Shown([], {}, {}), first=False, expected=None)
    assert (tmp_path / "run" / "checkpoints" / LAST).is_file(), "the first alone clears it"
