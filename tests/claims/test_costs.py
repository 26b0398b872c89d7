"""What the runs of a scale take by plan: planned once a setting, kept at once, summed beside each claim."""

import json

import pytest
import torch

from lightning_modules.claims import costs, run
from lightning_modules.claims.claim import jobs
from tests.claims import claims


@pytest.fixture
def asked(monkeypatch):
    """Jobs whose time was asked for; each takes six seconds a letter of its balance."""
    found = []

    def seconds(job, extra=()):
        found.append(job)
        return 6.0 * len(job.overrides[-1].removeprefix("balance="))

    monkeypatch.setattr(costs, "seconds", seconds)
    monkeypatch.setenv("FACET_COMMIT", "0123456789ab")
    return found


def test_each_setting_is_planned_once_and_kept_at_once(tmp_path, asked, capsys):
    claim, path = claims.made(tmp_path), tmp_path / "costs.json"
    wanted = jobs([claim], scale="small")
    costs.plan_all(wanted, scale="small", path=path)
    assert [(job.overrides[-1], job.seed) for job in asked] == [("balance=global", 11), ("balance=micro", 11)]
    rows = json.loads(path.read_text())
    assert [(row["setting"].split()[-1], row["seconds"], row["runs"]) for row in rows] == [
        ("balance=global", 36.0, 5),
        ("balance=micro", 30.0, 5),
    ]
    assert {row["commit"] for row in rows} == {"0123456789ab"}
    assert "[2/2] experiment=moe/scope balance=micro: 30 s a run" in capsys.readouterr().out
    path.write_text(json.dumps(rows[:1]))
    costs.plan_all(wanted, scale="small", path=path)
    assert [job.overrides[-1] for job in asked[2:]] == ["balance=micro"]


def test_a_plan_of_another_commit_is_replaced_and_one_of_another_scale_stays(tmp_path, asked, monkeypatch):
    wanted, path = jobs([claims.made(tmp_path)], scale="small"), tmp_path / "costs.json"
    costs.plan_all(wanted, scale="gpu", path=path)
    costs.plan_all(wanted, scale="small", path=path)
    monkeypatch.setenv("FACET_COMMIT", "ba9876543210")
    costs.plan_all(wanted, scale="small", path=path)
    found = [(row["scale"], row["commit"]) for row in json.loads(path.read_text())]
    assert found == [("gpu", "0123456789ab")] * 2 + [("small", "ba9876543210")] * 2


def test_a_claims_minutes_are_those_of_all_its_arms_and_seeds(tmp_path, asked):
    claim, path = claims.made(tmp_path), tmp_path / "costs.json"
    costs.plan_all(jobs([claim], scale="small"), scale="small", path=path)
    rows = costs.load(path)
    found = costs.planned(claim, claim.trials[0], rows)
    assert found.minutes == pytest.approx(5 * (36 + 30) / 60)
    assert found.machine == costs.machine()
    assert costs.planned(claim, claim.trials[0], rows[:1]) is None
    assert costs.planned(claim, _at_gpu(claim), rows) is None


def _at_gpu(claim):
    return claim.trials[0].model_copy(update={"scale": "gpu"})


@pytest.mark.slow
def test_a_run_is_planned_as_its_command_would_be(tmp_path):
    (job, *_) = jobs([claims.made(tmp_path)], scale="small")
    places = [f"paths.{name}={tmp_path}/{name}" for name in ("cache", "runs", "tracking")]
    small = ["debug=smoke", "data=synthetic", "logger=none", *places]
    one, two = (costs.seconds(job, [*small, f"trainer.max_steps={steps}"]) for steps in (1000, 4000))
    assert one > 0
    assert two > 2 * one
    assert not list((tmp_path / "runs").glob("**/result.json"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_the_gpu_it_says_so_and_keeps_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(costs, "KEPT", tmp_path / "costs.json")
    assert run.main(["--plan", "--scale", "gpu", "--claims", "moe/global_lowers_ppl"]) == 2
    assert "expected the machine that is asked about" in capsys.readouterr().err
    assert not (tmp_path / "costs.json").exists()
