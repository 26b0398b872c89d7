"""Every training and study of prompts on a device that is not the CPU, without float64: with the CPU's numbers."""

import contextlib

import pytest
import torch

from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.pretraining import TRAINER, MaskedLM
from lightning_modules.prompt.tuners import Adapter, BitFit, LoRA, SoftPrompt
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.perturb import Perturb
from lightning_modules.skill_neurons.prune import Prune
from lightning_modules.skill_neurons.studies import SkillNeurons
from lightning_modules.training.inner import inner_trainer, on_machine_of, seeded
from lightning_modules.transfer.across import Project, Tpt
from lightning_modules.transfer.projector import train_projector
from lightning_modules.transfer.studies import Indicators
from tests import golden, pretended
from tests.desks import Undrawn
from tests.prompt import tiny, toy
from tests.results import took_its_steps

STEPS = 4
TASKS = ["sentiment_film", "sentiment_shop"]


@contextlib.contextmanager
def device():
    with pretended.machine(float64=False), on_machine_of({"strategy": pretended.strategy(), "accelerator": "gpu"}):
        yield


def untied(backbone):
    """Moving to the pretended device unties tied weights, which moving to a real one does not."""
    backbone.model.lm_head.decoder.weight = torch.nn.Parameter(backbone.model.lm_head.decoder.weight.detach().clone())
    return backbone.requires_grad_(False)


@torch.no_grad()
def loud(backbone):
    """Weights fresh from initialisation answer every text alike."""
    for weight in backbone.parameters():
        weight.mul_(4)
    return backbone


class Spec(tiny.HubBackbone):
    def load(self):
        return untied(super().load())


def losses(module, *, data=None, loader=None, **settings):
    seen = golden.Losses()
    inner_trainer(max_steps=STEPS, callbacks=[seen], **settings).fit(module, loader, datamodule=data)
    return seen.values


def on_both(train):
    expected = train()
    with device():
        found = train()
    assert pretended.waits
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return Spec(name=tiny.save("roberta", tmp_path_factory.mktemp("roberta")))


@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.parametrize("tuner", [SoftPrompt, BitFit, Adapter, LoRA])
def test_tuning(tuner, spec):
    def train():
        with seeded(0):
            module = PromptTuning(backbone=spec, tuner=tuner(**{"length": 3} if tuner is SoftPrompt else {}), lr=0.02)
            data = tiny.data(spec, prompt_length=3 if tuner is SoftPrompt else 0)
            return losses(module, data=data, limit_val_batches=1)

    told = dict(on="pretended device", steps=STEPS, equal_to="the CPU", limit=1e-5)
    took_its_steps(f"prompt: {tuner.__name__}", difference=on_both(train), **told)


@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.parametrize("tuner", [SoftPrompt, BitFit])
def test_tuning_an_encoder_that_scores_by_phrases(tuner, tmp_path):
    headless = tiny.HubBackbone(name=tiny.save("bert", tmp_path), head="none")

    def train():
        with seeded(0):
            module = PromptTuning(
                backbone=headless, tuner=tuner(**{"length": 3} if tuner is SoftPrompt else {}), lr=0.02
            )
            data = tiny.data(headless, prompt_length=3 if tuner is SoftPrompt else 0)
            return losses(module, data=data, limit_val_batches=1)

    told = dict(on="pretended device", steps=STEPS, equal_to="the CPU", limit=1e-5)
    took_its_steps(f"prompt: {tuner.__name__} of an encoder without a head", difference=on_both(train), **told)


@pytest.mark.machines
def test_pretraining_a_backbone(tmp_path):
    def train():
        made = toy.spec(tmp_path, random_init=False, sentences=64, batch=8, steps=STEPS)
        made.build = lambda: untied(toy.spec(tmp_path).load()).model.requires_grad_(True)
        with seeded(0):
            return losses(MaskedLM(backbone=made), data=made.data(), **TRAINER)

    told = dict(on="pretended device", steps=STEPS, equal_to="the CPU", limit=1e-5)
    took_its_steps("prompt: pretraining a backbone", difference=on_both(train), **told)


@pytest.mark.parametrize("tuner", [SoftPrompt, BitFit])
@pytest.mark.slow
def test_the_host_waits_for_no_step(spec, tuner):
    """But for transformers, which looks in every forward whether the attention mask is full."""
    with device(), seeded(0):
        module = PromptTuning(backbone=spec, tuner=tuner(**{"length": 3} if tuner is SoftPrompt else {}), lr=0.02)
        module.on_fit_end = lambda: None
        trainer = inner_trainer(max_steps=6)
        pretended.waits.clear()
        trainer.fit(module, datamodule=tiny.data(spec))
    # Weights are read once, before the first step: what is frozen is compared with that.
    once = ("training/inner.py", "common/digests.py")
    waits = {place: n for place, n in pretended.waits.items() if not any(name in place for name in once)}
    # Whether the loss and the weights are numbers, when all steps are done.
    assert [waits.pop(place) for place in list(waits) if "training/finite_loss.py" in place] == [1, 1]
    assert list(waits.values()) == [6] and "prompt/backbone.py" in next(iter(waits))


@pytest.mark.machines
@pytest.mark.parametrize("objective", ["distance", "task"])
def test_a_projector(objective, spec):
    def train():
        draw = torch.Generator().manual_seed(0)
        sources_NPH, targets_NPG = (torch.randn(2, 3, width, generator=draw) for width in (24, tiny.WIDTH))
        about = dict(prompts_NPH=sources_NPH, targets_NPG=targets_NPG, objective=objective, steps=STEPS, seed=0)
        data = [tiny.data(spec, seed=seed) for seed in (0, 1)]
        from lightning_modules.training.inner import device

        projector = train_projector(**about, data=data, backbone=spec.load().to(device()))
        with torch.no_grad():
            return projector(sources_NPH).cpu().flatten().tolist()

    told = dict(on="pretended device", steps=STEPS, equal_to="the CPU", limit=1e-5)
    took_its_steps(f"prompt: projector by {objective}", difference=on_both(train), **told)


def test_what_neurons_do_is_the_same(spec):
    def found():
        from lightning_modules.training.inner import device

        backbone, data, prompt = spec.load().to(device()), tiny.data(spec), torch.randn(3, tiny.WIDTH)
        about = dict(train=data.fixed("train"), dev=data.fixed("val"), labels_N=data.examples("val").labels)
        pred_RLF = sn.find(backbone, **about, prompt=prompt, classes=2, permutations=3)
        moments = sn.moments(backbone, data.fixed("train"), prompt)
        mask_LF = sn.select(pred_RLF[0].to(backbone.device), share=0.2)
        alike = sn.spearman([pred.to(backbone.device) for pred in pred_RLF])
        return [*pred_RLF.flatten(), *moments.std_LF.flatten(), *mask_LF.flatten().float().cpu(), *alike.flatten()]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = found()
        torch.manual_seed(0)
        with device():
            assert [float(x) for x in found()] == pytest.approx([float(x) for x in expected], abs=1e-5)


SHARED = dict(tasks=TASKS, trials=1, permutations=1, share=0.1)
SMALL = dict(shares=[0.1], draws=1, examples=20)
STUDIES = {
    "neurons": (SkillNeurons, {}),
    "perturb": (Perturb, SMALL),
    "prune": (Prune, {"keep": [0.1], "top_layers": 1, "retune": 2, "rounds": 1}),
    "indicators": (Indicators, {"draws": 2}),
    "project": (Project, {}),
    "tpt": (Tpt, {"targets": ["sentiment_shop"], "cadence": 2}),
}


@pytest.mark.machines
@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study(name, tmp_path):
    kind, own = STUDIES[name]

    def backbone(**settings):
        made = toy.spec(tmp_path, **settings)
        plain = made.load
        made.load = lambda: loud(untied(plain()))
        return made

    def study(where):
        prompts, more = toy.prompts(tmp_path / where, backbone=backbone()), {}
        if kind in (Project, Tpt):
            other = toy.prompts(tmp_path / where, backbone=backbone(hidden_size=24, seed=1))
            more = dict(source_prompts=other, train_tasks=["sentiment_film"], steps=3)
        metrics = kind(prompts=prompts, **SHARED, **own, **more).run(Undrawn(folder=tmp_path / where))
        assert prompts.backbone.device.type == ("pretend" if where == "device" else "cpu")
        # The device unties the bias of the head too.
        return {n: v for n, v in metrics.items() if not n.startswith(("prompt/speed_up", "prompt/parameters_left"))}

    expected = study("cpu")
    with device():
        found = study("device")
    assert found.keys() == expected.keys()
    pairs = [(found[n], expected[n]) for n in found]
    difference = max([abs(a - b) for a, b in pairs if b == b], default=0.0)
    told = dict(on="pretended device", steps=toy.TUNING["steps"], equal_to="the CPU", limit=1e-5)
    took_its_steps(f"prompt: study {name}", difference=difference, **told)
