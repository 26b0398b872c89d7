"""The chunked output layer with its loss equals doing it in two steps."""

import pytest
import torch

from lightning_modules.moe.linear_cross_entropy import linear_cross_entropy

T, H, V = 37, 6, 11


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, H, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, H, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, V, (T,), generator=generator)
    return hidden, weight, targets, torch.rand(T, generator=generator) > 0.3


def two_steps(hidden, weight, targets, valid):
    nll = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    return nll[valid].mean()


@pytest.mark.parametrize("chunk", [1, 8, 37, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients(chunk, masked):
    hidden, weight, targets, valid = inputs()
    valid = valid if masked else torch.ones_like(valid)
    expected = two_steps(hidden, weight, targets, valid)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    found = linear_cross_entropy(
        hidden_TH=hidden, weight_VH=weight, targets_T=targets, valid_T=valid if masked else None, chunk=chunk
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for got, want in zip(torch.autograd.grad(3 * found, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_a_frozen_weight_takes_no_gradient_and_no_gradient_takes_no_work():
    hidden, weight, targets, _ = inputs()
    linear_cross_entropy(hidden_TH=hidden, weight_VH=weight.detach(), targets_T=targets).backward()
    assert weight.grad is None
    assert hidden.grad is not None
    with torch.no_grad():
        assert not linear_cross_entropy(hidden_TH=hidden, weight_VH=weight, targets_T=targets).requires_grad


def test_no_valid_token_is_zero_with_zero_gradient():
    hidden, weight, targets, valid = inputs()
    loss = linear_cross_entropy(hidden_TH=hidden, weight_VH=weight, targets_T=targets, valid_T=valid & False)
    loss.backward()
    assert float(loss) == 0
    assert float(hidden.grad.abs().max()) == float(weight.grad.abs().max()) == 0


def test_under_bfloat16_autocast_the_loss_is_float32_and_close():
    hidden, weight, targets, valid = inputs(torch.float32)
    expected = two_steps(hidden, weight, targets, valid)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden_TH=hidden, weight_VH=weight, targets_T=targets, valid_T=valid)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    for got, want in zip(torch.autograd.grad(loss, (hidden, weight)), wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("case", ["words that do not occur", "one word and large hidden states"])
def test_in_float16_gradients_neither_vanish_nor_overflow(case):
    """At the scale that GradScaler begins with; its scale comes behind what the forward has rounded already."""
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(2048, 8, generator=generator), 0.02 * torch.randn(2048, 8, generator=generator)
    targets = torch.randint(0, 1024, (2048,), generator=generator)
    if case == "one word and large hidden states":
        hidden, targets = 300 * hidden[:1].abs().expand(2048, 8), 0 * targets
    hidden, weight = (t.half().float().requires_grad_() for t in (hidden, weight))
    wanted = torch.autograd.grad(two_steps(hidden, weight, targets, targets >= 0), (hidden, weight))
    with torch.autocast("cpu", dtype=torch.float16):
        loss = linear_cross_entropy(hidden_TH=hidden, weight_VH=weight, targets_T=targets)
    for got, want in zip(torch.autograd.grad(65536 * loss, (hidden, weight)), wanted, strict=True):
        for part in (slice(1024), slice(1024, None)):
            error = (got[part] / 65536 - want[part]).norm() / want[part].norm()
            assert error < 4e-3, f"{case}: {error}"


def test_in_bfloat16_the_gradient_of_the_weight_is_summed_in_float32():
    """Of many chunks with equal gradients a bfloat16 sum stops growing: its error is several times larger."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, 4, generator=generator).expand(4096, 4).bfloat16().clone().requires_grad_()
    weight = torch.randn(8, 4, generator=generator).bfloat16().requires_grad_()
    targets = torch.zeros(4096, dtype=torch.int64)
    wide_hidden, wide_weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    linear_cross_entropy(hidden_TH=wide_hidden, weight_VH=wide_weight, targets_T=targets).backward()
    linear_cross_entropy(hidden_TH=hidden, weight_VH=weight, targets_T=targets, chunk=16).backward()
    assert weight.grad.dtype == torch.bfloat16
    error = (weight.grad.double() - wide_weight.grad).norm() / wide_weight.grad.norm()
    assert error < 0.006


def test_under_autocast_the_weight_is_cast_once():
    hidden, weight, targets, _ = inputs(torch.float32)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile,
    ):
        linear_cross_entropy(hidden_TH=hidden, weight_VH=weight.detach(), targets_T=targets, chunk=4)
    casts = [e for e in profile.key_averages(group_by_input_shape=True) if e.key == "aten::_to_copy"]
    assert sum(e.count for e in casts if e.input_shapes[0] == [V, H]) == 1
