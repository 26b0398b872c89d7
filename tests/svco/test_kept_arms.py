"""A kept arm is taken for the same arm alone: of the same weights that learn, told the same of the same pairs."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from datamodules.scenes import SceneSource
from datamodules.scenes.encodings import GIGABYTES
from lightning_modules.runtime import preflight
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.svco import evaluation, tuning
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.studies import Compare
from lightning_modules.svco.tuning import Arm, Settings
from tests.runtime.cli import PROJECT
from tests.svco import toy


def arm(folder, settings=None, **model):
    vlm = toy.tiny_vlm(**model)
    settings = Settings(str(folder), SceneSource(train=24, val=8, describe=1.0), 2, 4, 0, 48, **settings or {})
    return Arm(vlm, vlm.fingerprint(), "sft", Objective(nll={"ww": 1.0}), 1e-2, settings)


@pytest.mark.parametrize("other", [{"freeze_vision": False}, {"max_response": 2}])
def test_what_learns_and_what_it_is_told_are_part_of_a_kept_arm(other, tmp_path):
    one, two = arm(tmp_path), arm(tmp_path, **other)
    assert one.base == two.base
    first, _ = one.tuned()
    second, _ = two.tuned()
    alone, _ = arm(tmp_path / "apart", **other).tuned()
    weights = [dict(vlm.net.named_parameters()) for vlm in (first, second, alone)]
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[1].items())
    assert any(not torch.equal(value, weights[0][name]) for name, value in weights[1].items())
    assert len(list((tmp_path / "svco" / "tuned").glob("*/trained.safetensors"))) == 2


def test_a_step_in_several_forwards_is_another_arm_that_learns_the_same(tmp_path):
    whole, parts = arm(tmp_path), arm(tmp_path, {"accumulate": 2})
    assert whole.kept() != parts.kept()
    (one, found), (two, again) = whole.tuned(), parts.tuned()
    assert again == pytest.approx(found, rel=1e-4)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


def test_how_pairs_are_handled_reaches_them_and_is_no_part_of_an_arm(tmp_path, monkeypatch):
    handling = {"eval_batch": 3, "keep": False, "workers": 1, "encoded_gb": 0.5}
    register_resolvers(project=PROJECT)
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        given = [f"data.{name}={value}" for name, value in handling.items()]
        overrides = ["experiment=svco/compare", "data=mvc", "data.source.file=none", *given]
        cfg = compose("config", overrides=[*overrides, "trainer.accumulate_grad_batches=2"])
        scenes = compose("config", overrides=["experiment=svco/compare"]).study
    names = [*handling, "accumulate"]
    assert {name: cfg.study[name] for name in names} == {**handling, "accumulate": 2}
    assert (scenes.encoded_gb, scenes.eval_batch, scenes.keep, scenes.accumulate) == (GIGABYTES, 32, True, 1)

    study = Compare(
        model=toy.tiny_vlm(),
        objectives={"sft": Objective(nll={"ww": 1.0})},
        learning_rates=[1e-3],
        source=SceneSource(train=24, val=8),
        cache_dir=str(tmp_path),
        global_batch=4,
        scenes_each=2,
        test_pairs=4,
        **{name: cfg.study[name] for name in names},
    )
    data = tuning._pairs(study.settings)
    assert {name: getattr(data, name) for name in handling} == handling and study.settings.accumulate == 2
    asked = []
    scored = evaluation.pair_scores
    monkeypatch.setattr(
        evaluation, "pair_scores", lambda vlm, pairs, n: asked.append(len(pairs)) or scored(vlm, pairs, n)
    )
    study.measured(study.vlm)
    assert asked == [3, 1]
    assert arm(tmp_path).kept() == arm(tmp_path, {"handling": handling}).kept()


def test_a_step_that_does_not_divide_is_refused_before_the_base_is_made(tmp_path):
    for name in ("train", "compare"):
        errors, _ = preflight.examine([f"experiment=svco/{name}", "trainer.accumulate_grad_batches=3"])
        assert any("data.global_batch is 16" in error and "the nearest is 15" in error for error in errors), errors
