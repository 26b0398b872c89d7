"""A sweep's picture is drawn when it is worth it while jobs go on ending, and in any case at the end."""

import json
import os

import pytest
from omegaconf import OmegaConf

from lightning_modules.runtime import outcome, sweep_report
from lightning_modules.runtime import sweep as runner


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setenv(outcome.SWEEP, str(tmp_path))
    monkeypatch.delenv(outcome.PARENT_RUN, raising=False)
    return tmp_path


CFG = OmegaConf.create({"objective_metric": "val/ppl", "shown_metrics": []})


def ended(sweep, seed):
    folder = sweep / f"a-s{seed}"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"metrics": {"val/ppl": float(seed)}}))
    return outcome.note(CFG, folder, [f"seed={seed}"], status="done")


def test_a_job_that_ends_soon_after_another_draws_nothing_and_the_end_draws_all(sweep):
    picture, report = sweep / "report.png", sweep / "report.md"
    assert ended(sweep, 1) == 1.0
    first = picture.read_bytes()
    assert ended(sweep, 2) == 2.0
    assert "2 of 2 jobs done" in report.read_text()
    assert picture.read_bytes() == first
    assert sweep_report.is_behind(sweep)
    outcome.catch_up(CFG, sweep)
    assert picture.read_bytes() != first
    assert not sweep_report.is_behind(sweep)


def test_a_job_that_ends_long_after_is_drawn(sweep):
    ended(sweep, 1)
    picture = sweep / "report.png"
    first = picture.read_bytes()
    old = picture.stat().st_mtime - outcome.DRAWN_WITHIN - 1
    os.utime(picture, (old, old))
    ended(sweep, 2)
    assert picture.read_bytes() != first


def test_the_sweeps_run_gets_the_picture_that_was_behind(sweep, monkeypatch):
    shown = []
    monkeypatch.setattr(outcome, "_show", lambda cfg, sweep, files: shown.append([file.name for file in files]))
    ended(sweep, 1)
    ended(sweep, 2)
    outcome.catch_up(CFG, sweep)
    outcome.catch_up(CFG, sweep)
    assert shown == [["report.md", "report.png"], ["report.md"], ["report.md", "report.png"]]


def test_a_line_that_a_dying_machine_tore_stops_no_later_command(sweep):
    ended(sweep, 1)
    with open(sweep / "sweep.jsonl", "a") as file:
        file.write('{"folder": "a-s9", "overr')
    ended(sweep, 2)
    assert [entry["folder"] for entry in sweep_report.said(sweep)] == ["a-s1", "a-s2"]


def test_a_sweep_is_judged_by_the_jobs_of_its_own_command(sweep, monkeypatch, capsys):
    """A rate that was given up after it failed makes no later sweep a failed one."""
    cfg = OmegaConf.merge(CFG, {"logger": None, "look": {"page": False}, "hydra": {"sweep": {"dir": str(sweep)}}})
    cfg.hydra.sweeper = {}
    (sweep / "b-s1").mkdir()
    runner.start(cfg)
    outcome.note(CFG, sweep / "b-s1", ["optimizer.lr=1e9", "seed=1"], status="failed", reason="it diverged")
    assert runner.finish(cfg) == 1
    runner.start(cfg)
    ended(sweep, 1)
    assert runner.finish(cfg) == 0
    assert "1 of 2 jobs done" in (sweep / "report.md").read_text()
    assert "Of earlier commands 1 not done either" in " ".join(capsys.readouterr().err.split())
