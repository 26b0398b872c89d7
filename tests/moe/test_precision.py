"""Every precision that the CPU has takes its steps, and half precision loses nothing that must be exact."""

import pytest
import torch

from lightning_modules.moe.callbacks.aux_free_bias import AuxFreeBias
from tests.moe.toy import fit, tiny_model

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "bf16-true")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("experts", ["sorted", "grouped_mm"])
@pytest.mark.slow
def test_three_steps_with_clipping(precision, family, experts):
    if (experts, precision) == ("grouped_mm", "64-true"):
        pytest.skip("torch has no grouped product in float64: preflight refuses it")
    curve, _, trainer = fit(model=tiny_model(family, experts_implementation=experts), steps=3, precision=precision)
    wide, _, _ = fit(model=tiny_model(family, experts_implementation=experts), steps=3)
    assert trainer.global_step == 3
    assert curve.loss == pytest.approx(wide.loss, rel=0.01)


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_weights_in_bfloat16_are_the_float32_draw_rounded_and_learn(family):
    wide, half = tiny_model(family), tiny_model(family, dtype="bfloat16")
    for (name, one), other in zip(wide.named_parameters(), half.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other), name
    curve, _, _ = fit(model=half, steps=10)
    assert curve.loss[-1] < curve.loss[0]


def test_a_bias_moves_by_its_rate_in_bfloat16():
    callback = AuxFreeBias(rate=0.001)
    model = tiny_model("deepseek_v3")
    for layer in model.model.layers:
        layer.mlp.gate.e_score_correction_bias += 0.5
    _, module, _ = fit(model=model, callbacks=[callback], steps=3, precision="bf16-true", weight=0.0)
    for router in module.tap.routers:
        moved = (router.e_score_correction_bias - 0.5) / 0.001
        assert router.e_score_correction_bias.dtype == torch.float32
        assert moved.abs().max() >= 1
        torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-3)


def test_a_bias_comes_back_from_a_checkpoint_as_it_was():
    """The model is cast after its weights are loaded; the callback's own state is not."""
    first, second = AuxFreeBias(rate=0.001), AuxFreeBias(rate=0.001)
    _, module, _ = fit(model=tiny_model("deepseek_v3"), callbacks=[first], steps=3, precision="bf16-true", weight=0.0)
    second.load_state_dict(first.state_dict())
    _, again, _ = fit(model=tiny_model("deepseek_v3"), callbacks=[second], steps=1, precision="bf16-true", weight=0.0)
    for before, after in zip(module.tap.routers, again.tap.routers, strict=True):
        step = (after.e_score_correction_bias - before.e_score_correction_bias) / 0.001
        torch.testing.assert_close(step, step.round(), rtol=0, atol=1e-3)


def test_a_resumed_bias_is_put_back_once_and_tested_as_it_was_left():
    """Of a run without callbacks.checkpoint, whose last weights are those that are tested and exported."""
    first, second = AuxFreeBias(rate=0.001), AuxFreeBias(rate=0.001)
    fit(model=tiny_model("deepseek_v3"), callbacks=[first], steps=1)
    second.load_state_dict(first.state_dict())
    _, module, trainer = fit(model=tiny_model("deepseek_v3"), callbacks=[second], steps=2)
    left = [router.e_score_correction_bias.clone() for router in module.tap.routers]
    trainer.test(module, datamodule=trainer.datamodule, ckpt_path=None, verbose=False)
    for router, bias, resumed in zip(module.tap.routers, left, first.state_dict()["biases"], strict=True):
        assert torch.equal(router.e_score_correction_bias, bias)
        assert not torch.equal(bias, resumed)
