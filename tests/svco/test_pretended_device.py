"""S-VCO on a device that is not the CPU: its trainings, its cached reference and what is measured are the CPU's."""

import pytest
import torch

from datamodules.scenes.datamodule import SceneSource
from lightning_modules.look import page
from lightning_modules.svco.callbacks.scene_evaluation import SceneEvaluation
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.mvc.candidates import SceneCandidates
from lightning_modules.svco.mvc.filters import EmbeddedSimilarity
from lightning_modules.svco.pretraining import pretrain
from lightning_modules.svco.studies import Compare
from lightning_modules.training.inner import on_machine_of
from tests import pretended
from tests.desks import Undrawn
from tests.results import took_its_steps
from tests.svco.test_module import FOUR, fit
from tests.svco.toy import tiny_vlm

pytestmark = pytest.mark.slow

OBJECTIVES = {
    "svco, cached reference": {},
    "svco, live reference": {"reference": "live"},
    "sft": {"betas": {}, "nll": {"ww": 1.0, "ll": 1.0}},
}


@pytest.mark.machines
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_losses_are_those_of_the_cpu(name):
    expected, _, _ = fit(objective=OBJECTIVES[name])
    with pretended.machine(float64=False):
        found, module, trainer = fit(objective=OBJECTIVES[name], accelerator="auto", strategy=pretended.strategy())
    assert trainer.strategy.root_device.type == "pretend"
    assert all(scores.device.type == "pretend" for split in module._cache.values() for scores in split.values())
    difference = max(abs(a - b) for a, b in zip(found.loss, expected.loss, strict=True))
    took_its_steps(
        f"svco: {name}", on="pretended device", steps=6, equal_to="the CPU", difference=difference, limit=1e-4
    )


def test_what_is_measured_is_what_the_cpu_measures(tmp_path):
    def base(**machine):
        callback = SceneEvaluation(folder=str(tmp_path), scenes_each=4, pairs=6)
        fit(steps=1, callbacks=[callback], **machine)
        return callback.base

    expected = base()
    with pretended.machine(float64=False):
        found = base(accelerator="auto", strategy=pretended.strategy())
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
    assert found.captions == expected.captions


def on_both(work):
    """What `work` returns on the CPU and on the pretended device."""
    expected = work("cpu")
    with pretended.machine(float64=False), on_machine_of({"accelerator": "auto", "strategy": pretended.strategy()}):
        return expected, work("pretended")


@pytest.mark.machines
def test_a_study_and_the_filter_find_what_they_find_on_the_cpu(tmp_path):
    def compare(name):
        study = Compare(
            model=tiny_vlm(),
            objectives={"svco": Objective(betas=FOUR)},
            learning_rates=[1e-3],
            source=SceneSource(train=8, val=6, test=6),
            cache_dir=str(tmp_path / name),
            steps=2,
            global_batch=4,
            scenes_each=2,
            test_pairs=6,
        )
        found = study.run(Undrawn(folder=tmp_path / name, page=True))
        (shown,) = page.read(tmp_path / name / "look.html")["runs"]
        for model, right in shown["right"].items():
            assert sum(right) / len(right) == pytest.approx(found[f"svco/paired_all_{model}"])
        assert study.vlm.device.type == ("cpu" if name == "cpu" else "pretend")
        return found

    expected, found = on_both(compare)
    numbers = [name for name, value in expected.items() if value == value]
    difference = max(abs(found[n] - expected[n]) / max(1, abs(expected[n])) for n in numbers)
    took_its_steps(
        "svco: compare", on="pretended device", steps=2, equal_to="the CPU", difference=difference, limit=1e-4
    )

    candidates = list(SceneCandidates(count=4).part(0, 4))
    ones, others = [c.one for c in candidates], [c.other for c in candidates]
    expected, found = on_both(lambda _: EmbeddedSimilarity(model=tiny_vlm())(ones, others))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.machines
def test_the_base_is_pretrained_as_on_the_cpu():
    sizes = dict(width=32, vision_layers=1, layers=1, heads=2, pixels=48)
    settings = dict(
        seed=0, prior=1.0, vision_steps=3, steps=3, scenes=20, batch=4, vision_lr=1e-3, lr=2e-3, no_image=0.2
    )

    def weights(_):
        torch.manual_seed(0)
        vlm, _ = pretrain(sizes=sizes, **settings)
        return {name: weight.detach().cpu() for name, weight in vlm.named_parameters()}

    expected, found = on_both(weights)
    difference = max(float((found[n] - expected[n]).abs().max()) for n in expected)
    took_its_steps("svco: base", on="pretended device", steps=6, equal_to="the CPU", difference=difference, limit=1e-4)
