"""S-VCO on a device that is not the CPU: its trainings, its cached reference and what is measured are the CPU's."""

import pytest

from lightning_modules.svco.callbacks.scene_evaluation import SceneEvaluation
from tests import pretended
from tests.results import took_its_steps
from tests.svco.test_module import fit

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
        found, module, trainer = fit(objective=OBJECTIVES[name], strategy=pretended.strategy())
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
        found = base(strategy=pretended.strategy())
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
    assert found.captions == expected.captions
