"""Pictures of the report, drawn from the tables that runs left in MLflow, the mean over seeds."""

import csv
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.claims import pictures
from lightning_modules.claims.evidence import finished, rows
from lightning_modules.claims.table import load_all
from tests.claims import claims

SEEDS = claims.FIELDS["seeds"]


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    """Of a claim `name` whose arm `a` left a table in every seed's run; figures are what they were called with."""

    def made(name, arm, table, columns, lines):
        claims.write(
            tmp_path / "tables",
            name,
            arms={arm: {"run": ["balance=global"]}, "b": {"value": 0.0}},
            contrast={arm: 1, "b": -1},
        )
        claim = load_all(tables=tmp_path / "tables")[f"moe/{name}"]
        client = claims.store(tmp_path, claim, {arm: dict.fromkeys(SEEDS, 1.0)})
        for place, seed in enumerate(SEEDS):
            run = finished(client)[claim.job(claim.trials[0], arm, seed).folder]
            file = tmp_path / str(seed) / f"{table}.csv"
            file.parent.mkdir()
            with open(file, "w", newline="") as opened:
                csv.writer(opened).writerows([columns, *lines(place)])
            client.log_artifact(run.info.run_id, str(file), "tables")
        return pictures.Gallery(rows({f"moe/{name}": claim}, finished(client)), client)

    return made


def test_a_matrix_is_the_mean_over_seeds_in_the_order_of_its_table(gallery, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        pictures.prompt_figures, "spearman_figure", lambda values, **named: seen.update(values=values, **named)
    )
    columns = ["task", "skill", "mood_film", "number_shop"]
    made = gallery(
        "similar_tasks_have_similar_neurons",
        "within",
        "spearman",
        columns,
        lambda n: [["mood_film", "feeling", 1, n / 10], ["number_shop", "counting", 0.5, 1]],
    )
    made.likeness()
    assert torch.allclose(seen["values"], torch.tensor([[1.0, 0.2], [0.5, 1.0]]))
    assert seen["tasks"] == ["mood_film", "number_shop"]
    assert seen["skills"] == {"mood_film": "feeling", "number_shop": "counting"}


def test_curves_keep_every_seed(gallery, monkeypatch):
    seen = {}
    monkeypatch.setattr(pictures.prompt_figures, "perturbation_figure", lambda curves: seen.update(curves))
    columns = ["task", "kind", "neurons", "share", "accuracy"]
    made = gallery(
        "perturbing_skill_hurts_more_than_random",
        "skill",
        "perturbation",
        columns,
        lambda n: [["t", "gaussian", "skill neurons", 0.2, n / 10]],
    )
    made.perturbation()
    assert seen == {"gaussian": {"skill neurons": {0.2: [0.0, 0.1, 0.2, 0.3, 0.4]}}}


def test_tuning_curves_keep_trials_and_seeds_apart(gallery, monkeypatch):
    seen = {}
    monkeypatch.setattr(pictures.transfer_figures, "curves_figure", lambda curves: seen.update(curves))
    columns = ["target", "start", "trial", "step", "accuracy"]
    lines = lambda n: [["t", "vanilla", trial, step, step / 100] for trial in (0, 1) for step in (0, 10)]  # noqa: E731
    made = gallery("tpt_task_converges_faster", "tpt", "curves", columns, lines)
    made.tuning()
    assert seen == {"t": {"vanilla": [{0: 0.0, 10: 0.1}] * 10}}


def test_without_runs_there_are_no_pictures():
    empty = pictures.Gallery([SimpleNamespace(finding=None, name="moe/x")], client=None)
    assert all(empty.figures(system) == {} for system in pictures.PICTURES)
