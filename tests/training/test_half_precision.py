"""`precision=bf16-true` casts the whole model: what is frozen is compared with what it was after that."""

import math

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.tuners import LoRA, SoftPrompt
from lightning_modules.training.inner import inner_trainer, seeded
from tests.prompt import tiny
from tests.svco.test_module import fit


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return tiny.HubBackbone(name=tiny.save("roberta", tmp_path_factory.mktemp("roberta")))


def tuned(spec, tuner, *callbacks):
    with seeded(0):
        module = PromptTuning(backbone=spec, tuner=tuner, lr=0.02)
        data = tiny.data(spec, prompt_length=tuner.length)
        inner_trainer(max_steps=2, precision="bf16-true", callbacks=list(callbacks)).fit(module, datamodule=data)
    return module


@pytest.mark.parametrize("tuner", [lambda: SoftPrompt(length=3), lambda: LoRA(rank=2)])
def test_prompt_tuning(tuner, spec):
    module = tuned(spec, tuner())
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module.before == spec.load().fingerprint(), (
        "what it is a prompt of is named by the weights as they were saved"
    )


def test_a_frozen_weight_that_moves_is_still_seen(spec):
    class Push(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            next(module.backbone.parameters()).data.add_(1)

    with pytest.raises(AssertionError, match="the frozen backbone changed"):
        tuned(spec, SoftPrompt(length=3), Push())


@pytest.mark.parametrize("reference", ["cached", "live"])
@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.slow
def test_svco(reference, lora_rank):
    """Before the first step model and reference are the same, so that each of four terms is log 2."""
    curve, module, _ = fit(steps=2, reference=reference, lora_rank=lora_rank, precision="bf16-true")
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert curve.loss[0] == pytest.approx(4 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_fused_step_is_clipped_under_every_precision(precision):
    """One that is not fused goes through a model parameter by parameter, several times."""
    clipped = []

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            assert optimizer.defaults["fused"]

        def on_before_zero_grad(self, trainer, module, optimizer):
            norms = [p.grad.norm() for p in module.parameters() if p.grad is not None]
            if norms:
                clipped.append(float(torch.stack(norms).norm()))

    fit(steps=2, precision=precision, callbacks=[Look()], gradient_clip_val=1e-3)
    assert clipped
    assert max(clipped) == pytest.approx(1e-3, rel=0.05)
