"""How an objective's learning rate is chosen: by paired accuracy, or by that of the rates that keep likelihood."""

import csv
import json
import math
from functools import partial

import pytest

from datamodules.scenes import SceneSource
from lightning_modules.common import metric_names as names
from lightning_modules.runtime.study import Desk
from lightning_modules.svco import tuning
from lightning_modules.svco.arms import KEPT, Arms, Trained
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.studies import Compare
from lightning_modules.svco.tradeoff import Tradeoff
from lightning_modules.training.finite_loss import FiniteLoss
from tests.desks import Undrawn
from tests.svco import toy

SFT = Objective(nll={"ww": 1.0})


def arms(folder, *, chosen_by, rates=(1e-4, 1e-3, 1e-2), objective=SFT, study=Arms, **more):
    return study(
        model=toy.tiny_vlm(),
        objectives={"sft": objective},
        learning_rates=list(rates),
        source=SceneSource(train=24, val=8),
        cache_dir=str(folder),
        steps=2,
        global_batch=4,
        chosen_by=chosen_by,
        **more,
    )


def choice(study, measured, folder):
    """The rate chosen of arms with these (paired accuracy, nats) on validation pairs, the base's being 1 nat."""
    study.base_val = {names.VAL_PAIRED: 0.4, names.VAL_PAIR_NLL: 1.0}
    study.each_rate = lambda *_, **__: (
        Trained(lr, None, {names.VAL_PAIRED: paired, names.VAL_PAIR_NLL: nats})
        for lr, (paired, nats) in zip(study.learning_rates, measured, strict=True)
    )
    return study.chosen("sft", Desk(folder=folder)).lr


MEASURED = [
    # Each: what the three rates measure, the one by paired accuracy, the one by what is kept.
    ([(0.5, 1.0), (0.6, 1.0 + 0.9 * KEPT), (0.9, 1.0 + 1.1 * KEPT)], 1e-2, 1e-3),
    ([(0.5, 0.9), (0.5, 0.8), (0.4, 0.1)], 1e-4, 1e-4),
    ([(0.9, 3.0), (0.9, 2.0), (0.9, 4.0)], 1e-4, 1e-3),
    # What diverged is chosen by neither, also where the other rates keep nothing or answer nothing.
    ([(0.0, math.nan), (0.7, 1.5), (0.9, math.inf)], 1e-3, 1e-3),
    ([(0.0, math.nan), (0.0, 3.0), (0.0, math.nan)], 1e-3, 1e-3),
]


@pytest.mark.parametrize(("measured", "by_paired", "by_kept"), MEASURED)
def test_the_rate_of_the_highest_accuracy_or_of_that_which_keeps_likelihood(tmp_path, measured, by_paired, by_kept):
    assert choice(arms(tmp_path, chosen_by="paired"), measured, tmp_path) == by_paired
    assert choice(arms(tmp_path, chosen_by="kept"), measured, tmp_path) == by_kept


@pytest.mark.parametrize("stopped", [False, True])
def test_an_arm_that_diverges_is_said_to_and_where_all_do_the_rates_are_named(tmp_path, stopped, monkeypatch, capsys):
    if stopped:
        trainer = partial(tuning.inner_trainer, callbacks=[FiniteLoss()])
        monkeypatch.setattr(tuning, "inner_trainer", trainer)
    study = arms(tmp_path, chosen_by="paired", rates=(1e-4, 1e30), objective=Objective(betas={"reject": 0.1}))
    assert study.chosen("sft", Desk(folder=tmp_path)).lr == 1e-4
    said = capsys.readouterr().err
    assert "sft at 1e+30: diverged" in said and "sft at 0.0001: validation paired accuracy" in said
    study.learning_rates = [1e30]
    with pytest.raises(ValueError, match=r"sft diverged at every one of study\.learning_rates, 1e\+30"):
        study.chosen("sft", Desk(folder=tmp_path))


def test_a_misspelt_rule_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"study\.chosen_by.*'keep'.*kept"):
        arms(tmp_path, chosen_by="keep")


def test_a_curve_through_all_rates_chooses_none(tmp_path):
    assert arms(tmp_path, chosen_by="paired", study=Tradeoff).learning_rates
    with pytest.raises(ValueError, match=r"study\.chosen_by is 'kept', and no rate is chosen here"):
        arms(tmp_path, chosen_by="kept", study=Tradeoff)


@pytest.mark.slow
def test_of_the_base_validation_measures_what_an_arm_that_learns_nothing_has(tmp_path):
    contrast = Objective(betas={"attend": 0.1, "reject": 0.1, "attend_mirror": 0.1, "reject_mirror": 0.1})
    asked = dict(study=Compare, rates=(1e-12,), objective=contrast, judged_on="pairs", test_pairs=8)
    study = arms(tmp_path, chosen_by="kept", **asked)
    study.run(Undrawn(folder=tmp_path / "run"))
    base, arm = csv.DictReader((tmp_path / "run" / "tables" / "learning_rates.csv").open())
    assert (base["objective"], arm["objective"]) == ("base", "sft")
    assert float(arm["val nll"]) == pytest.approx(float(base["val nll"]), rel=1e-5)
    assert float(arm["val nll"]) == pytest.approx(study.base_val[names.VAL_PAIR_NLL], rel=1e-5)
    assert arm["val paired"] == base["val paired"]
    # Nothing is trained or kept for the base.
    (kept,) = (tmp_path / "svco" / "tuned").glob("*/validation.json")
    assert set(json.loads(kept.read_text())) == set(study.base_val)
