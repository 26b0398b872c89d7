import json

import pytest

from lightning_modules.claims import run
from lightning_modules.claims.claim import Job
from lightning_modules.runtime import begun, config, preflight
from lightning_modules.runtime.sweep import PROJECT
from tests.claims import claims


@pytest.fixture
def places(tmp_path):
    return [f"paths.{name}={tmp_path}/{name}" for name in ("cache", "runs", "tracking")]


@pytest.mark.processes
def test_jobs_run_side_by_side_what_is_done_is_passed_over_and_a_failure_stops_no_other(tmp_path, places, capsys):
    base = ("debug=smoke", "logger=none", "trainer.max_steps=10", *places)
    good, bad = Job((*base, "balance=micro"), 11), Job((*base, "data.micro_batch=3"), 11)
    before = Job((*base, "balance=none"), 11)
    folder = tmp_path / "runs" / "debug" / "smoke" / before.folder
    folder.mkdir(parents=True)
    kept = '{"metrics": {}}'
    (folder / "result.json").write_text(kept)
    board = run.run_all([before, bad, good], together=2, runs=tmp_path / "runs")
    assert [job for job, _ in board.failed] == [bad]
    assert "micro_batch" in board.failed[0][1]
    assert good.folder in run.done(tmp_path / "runs")
    assert bad.folder not in run.done(tmp_path / "runs")
    said = capsys.readouterr().out
    assert "3 runs, 1 of them done already" in said
    assert "min left" in said
    assert (folder / "result.json").read_text() == kept
    again = run.run_all([before, good], together=1, runs=tmp_path / "runs")
    assert again.total == 0
    assert json.loads((tmp_path / "runs" / "debug" / "smoke" / good.folder / "result.json").read_text())["metrics"]


def test_the_time_left_goes_by_the_experiment():
    board = run.Board(total=4, together=2)
    board.seconds = {"experiment=a": [60.0], "experiment=b": [180.0, 300.0]}
    waiting = [Job(("experiment=a",), 1), Job(("experiment=b",), 1), Job(("experiment=c",), 1)]
    assert board.minutes(waiting) == pytest.approx((60 + 240 + 180) / 2 / 60)


def test_one_claim_can_be_asked_for(tmp_path):
    given = run.arguments(["--claims", "moe/global_lowers_ppl"])
    assert given.claims == ("moe/global_lowers_ppl",)
    with pytest.raises(ValueError, match="the nearest is .moe/a_beats_b"):
        run.chosen({"moe/a_beats_b": claims.made(tmp_path)}, ("moe/a_beats_c",))


def test_what_was_begun_with_another_config_is_not_done(tmp_path):
    """A config file was edited since: the runs of before are another setting under the same name."""
    job = Job(("debug=smoke", "balance=micro"), 11)
    folder = tmp_path / "debug" / "smoke" / job.folder
    folder.mkdir(parents=True)
    config.register_resolvers(project=PROJECT)
    ((_, cfg),) = preflight.every_job([*job.overrides, "seed=12"])
    cfg.seed = 11
    begun.keep(cfg, folder)
    (folder / "result.json").write_text('{"metrics": {}}')
    assert run.begun_otherwise([job], runs=tmp_path) == []
    cfg.trainer.max_steps += 1
    (folder / "begun.json").unlink()
    begun.keep(cfg, folder)
    (said,) = run.begun_otherwise([job], runs=tmp_path)
    assert "trainer.max_steps was" in said


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--data", "rael"], "--data rael: expected some of synthetic, real"),
        (["--systems", "mo"], "--systems mo: expected some of moe"),
        (
            ["--claims", "moe/exact_counts_beat_buffered"],
            "no claim asked for has a trial at SCALE=small SERIES=first; there are SCALE=small SERIES=later on real data.",
        ),
    ],
)
def test_a_command_that_would_run_nothing_says_why(argv, told, capsys):
    with pytest.raises(SystemExit) as left:
        raise SystemExit(run.main(argv))
    assert left.value.code == 2
    assert told in capsys.readouterr().err
