"""The curve of accuracy against likelihood: which points nothing beats, and what a study makes of its arms."""

import csv
import math

import pytest
import torch

from datamodules.scenes import SceneSource
from lightning_modules.common import metric_names as names
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.arms import Trained
from lightning_modules.svco.evaluation import Found, evaluate_pairs
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.tradeoff import KEPT, Point, Tradeoff, kept, on_front
from tests.desks import Undrawn
from tests.svco import toy


def test_on_the_front_is_what_no_other_beats_on_both_axes():
    points = [
        Point("base", 0.0, paired=0.4, nats=1.0),
        Point("a", 1e-3, paired=0.6, nats=1.2),
        Point("a", 3e-3, paired=0.6, nats=1.3),  # as accurate as the one before, and less likely
        Point("b", 1e-3, paired=0.7, nats=2.0),
        Point("b", 3e-3, paired=0.5, nats=1.2),
    ]
    assert on_front(points) == [True, True, False, True, False]
    twice = [points[1], points[1]._replace(objective="c")]
    assert on_front(twice) == [True, True]
    diverged = Point("c", 1e-2, paired=0.9, nats=math.nan)
    assert on_front([*points[:2], diverged, diverged._replace(nats=math.inf)]) == [True, True, False, False]


def tradeoff(folder, **more):
    settings = dict(source=SceneSource(train=24, val=8), cache_dir=str(folder), steps=2, global_batch=4)
    return Tradeoff(**{"model": toy.tiny_vlm(), "objectives": {}, "learning_rates": [1e-3]} | settings | more)


def test_what_a_pairs_answer_costs_is_counted_by_the_token(tmp_path):
    """As what is kept is: 1% a token is not 40% because answers are 40 tokens long."""
    study = tradeoff(tmp_path, judged_on="pairs")

    def point(nats):
        tokens = torch.tensor([10, 70])
        return study.point(
            "a", 1e-3, Found({"svco/paired_all": 0.5}, {}, {}, scores={"ww": -nats * tokens}, tokens=tokens)
        )

    assert point(1.01).nats == pytest.approx(1.01)
    assert kept([point(1.01)._replace(paired=0.9)], point(1.0)) == 0.9
    assert study.unit == "nats a token of a test pair's fitting answer"
    found = evaluate_pairs(study.vlm, pairs=toy.toy_pairs(3))
    assert found.tokens.tolist() == [len(pair.response_w) for pair in toy.encode(study.vlm, toy.toy_pairs(3))]


def test_an_arm_that_diverged_has_no_place_on_the_curve(tmp_path):
    objectives = {"sft": Objective(nll={"ww": 1.0}), "dpo": Objective(betas={"reject": 0.1})}
    study = tradeoff(tmp_path, objectives=objectives, learning_rates=[1e-3, 1e-2], scenes_each=2, test_pairs=4)
    found = {("sft", 1e-3): 1.0, ("sft", 1e-2): math.nan, ("dpo", 1e-3): math.nan, ("dpo", 1e-2): math.nan}
    study.each_rate = lambda name, _: (
        Trained(lr, study.vlm, {names.VAL_PAIRED: 0.9, names.VAL_PAIR_NLL: found[name, lr]}) for lr in (1e-3, 1e-2)
    )
    metrics = study.run(Undrawn(folder=tmp_path / "run"))
    assert metrics["svco/paired_best_sft"] == metrics["svco/paired_kept_sft"] == metrics["svco/paired_base"]
    assert math.isnan(metrics["svco/paired_best_dpo"]) and metrics["svco/rates_on_front_dpo"] == 0
    assert metrics["svco/paired_kept_dpo"] == metrics["svco/paired_base"]


def test_what_is_kept_is_the_best_among_those_as_likely_as_the_base():
    base = Point("base", 0.0, 0.4, 1.0)
    near, far = Point("a", 1e-3, 0.6, 1.0 + 0.99 * KEPT), Point("a", 3e-3, 0.9, 1.0 + 1.01 * KEPT)
    assert kept([near, far], base) == 0.6
    assert kept([far], base) == 0.4
    assert math.exp(KEPT) == pytest.approx(1.05)


@pytest.mark.slow
def test_every_objective_has_a_point_at_every_rate(tmp_path):
    objectives = {"sft": Objective(nll={"ww": 1.0}), "dpo": Objective(betas={"reject": 0.1})}
    study = Tradeoff(
        model=toy.tiny_vlm(),
        objectives=objectives,
        learning_rates=[1e-2, 1e-4],
        source=SceneSource(train=24, val=8),
        cache_dir=str(tmp_path / "cache"),
        steps=2,
        global_batch=4,
        scenes_each=4,
        test_pairs=12,
    )
    metrics = study.run(Desk(folder=tmp_path / "run"))
    rows = list(csv.DictReader((tmp_path / "run" / "tables" / "tradeoff.csv").open()))
    assert [(row["objective"], float(row["lr"])) for row in rows] == [
        ("base", 0.0),
        ("sft", 1e-4),
        ("sft", 1e-2),
        ("dpo", 1e-4),
        ("dpo", 1e-2),
    ]
    for name in objectives:
        own = [float(row["paired"]) for row in rows if row["objective"] == name]
        assert metrics[f"svco/paired_best_{name}"] == pytest.approx(max(own), abs=1e-3)
        ringed = [row["on the front"] for row in rows if row["objective"] == name]
        assert metrics[f"svco/rates_on_front_{name}"] == ringed.count("True")
    assert (tmp_path / "run" / "figures" / "tradeoff.png").is_file()
