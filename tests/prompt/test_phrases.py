"""An encoder without a head scores by its classes' phrases: the frozen model's, whatever is hooked, trained or loaded."""

import pytest
import torch

from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.prompt.tuners import BitFit
from lightning_modules.skill_neurons.hooks import Perturbation
from lightning_modules.skill_neurons.prompt_study import accuracy
from lightning_modules.skill_neurons.single_neurons import answered
from tests.prompt import tiny, toy


@pytest.fixture
def spec(tmp_path):
    return tiny.HubBackbone(name=tiny.save("bert", tmp_path / "bert"), head="none")


@torch.no_grad()
def scores(backbone, data, prompt=None):
    return torch.cat([backbone.scores(batch, prompt) for batch in data.fixed("test")])


def test_a_neuron_is_read_on_texts_alone_by_a_backbone_that_has_embedded_no_phrase_yet(spec):
    data = tiny.data(spec)
    backbone = spec.load()
    prompt = tiny.prompt_of(backbone)
    first, right = answered(backbone, data, prompt, layer=1, unit=2)
    again, as_right = answered(backbone, data, prompt, layer=1, unit=2)
    assert first.shape == (len(data.examples("test")), len(prompt))
    assert torch.equal(first, again) and right == as_right


def test_noise_on_neurons_leaves_the_phrases_alone(spec):
    data = tiny.data(spec)
    noise = dict(mask_LF=torch.ones(tiny.LAYERS, tiny.FFN, dtype=torch.bool), alpha=30.0)
    clean, noisy = spec.load(), spec.load()
    prompt = tiny.prompt_of(clean)
    expected = scores(clean, data, prompt)
    accuracy(noisy, data, prompt, see=Perturbation(**noise))
    assert torch.equal(scores(noisy, data, prompt), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.TUNERS)
def test_a_tuned_model_that_is_read_back_scores_as_it_did_when_it_was_tuned(spec, name, tmp_path):
    tuning = toy.TUNING | {"steps": 6, "lr": 0.05}
    prompts = Prompts(backbone=spec, source=tiny.Reviews(), tuning=tuning, cache=str(tmp_path), length=3)
    module = PromptTuning(backbone=spec, tuner=tiny.TUNERS[name](), lr=0.05)
    data = prompts.data("reviews")
    tiny.trainer(6).fit(module, prompts.datamodule("reviews", seed=0))
    module.export(tmp_path / "tuned", datamodule=data)
    prompts.path = lambda *_, **__: tmp_path / "tuned"
    again = prompts.tuned("reviews", seed=0, tuner=tiny.TUNERS[name]())
    expected = scores(module.backbone, data)
    assert torch.equal(scores(again.backbone, data), expected)
    # By the tuned model's own phrases it would answer otherwise, so the equality above can fail.
    again.backbone._prototypes.clear()
    assert not torch.allclose(scores(again.backbone, data), expected, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_phrases_are_embedded_before_a_trainer_casts_the_weights(spec, precision):
    data = tiny.data(spec, prompt_length=0)
    module = PromptTuning(backbone=spec, tuner=BitFit(), lr=0.05)
    tiny.trainer(2, precision=precision).fit(module, data)
    (own,) = module.backbone._prototypes.values()
    clean = spec.load()
    clean.embed_phrases(data.common)
    assert own.dtype == torch.float32
    assert torch.equal(own, *clean._prototypes.values())


@pytest.mark.slow
def test_a_training_that_goes_on_is_the_one_that_was_not_stopped(spec, tmp_path):
    def tuned(steps, **settings):
        torch.manual_seed(0)
        module = PromptTuning(backbone=spec, tuner=BitFit(), lr=0.05)
        fit = tiny.trainer(steps)
        fit.fit(module, tiny.data(spec, prompt_length=0), weights_only=True, **settings)
        return module, fit

    whole, _ = tuned(6)
    _, half = tuned(3)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = tuned(6, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.trained().items():
        assert torch.equal(resumed.trained()[name], value), name
