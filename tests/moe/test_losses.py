"""Exactness of the load-balancing loss, float64, 1e-10 (issue: Qiu et al. 2025, section 2)."""

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from lightning_modules.moe.losses import (
    Frequency,
    bias_step,
    lbl_per_block,
    load_balancing_loss,
    reduce_layers,
    router_probabilities,
    router_z_loss,
)
from lightning_modules.moe.module import MoELM
from lightning_modules.moe.routing import RouterStats
from tests.moe.toy import tiny_model

LAYERS, EXPERTS, TOP_K = 3, 8, 2


def make_stats(*, sequences=8, length=16, blocks=4, seed=0, valid=None, logits=None):
    generator = torch.Generator().manual_seed(seed)
    tokens = sequences * length
    if logits is None:
        logits = torch.randn(LAYERS, tokens, EXPERTS, generator=generator, dtype=torch.float64) * 2
    logits = logits.detach().requires_grad_()
    indices = logits.topk(TOP_K, -1).indices
    if valid is None:
        valid = torch.ones(tokens, dtype=torch.bool)
    return RouterStats(logits, indices, valid, blocks)


def lbl(stats, frequency=None, reduction="mean"):
    return load_balancing_loss(
        frequency=frequency or stats.frequency, prob_sums_LME=stats.prob_sums_LME, layer_reduction=reduction
    )


def reference_block(stats, block):
    """The formula token by token, in plain Python: one block's LBL per layer."""
    width = len(stats.valid_T) // stats.blocks
    out = []
    for layer in range(LAYERS):
        f, p, n = [0.0] * EXPERTS, [0.0] * EXPERTS, 0
        for t in range(block * width, (block + 1) * width):
            if not stats.valid_T[t]:
                continue
            n += 1
            for e in stats.indices_LTK[layer, t].tolist():
                f[e] += 1
            for e, value in enumerate(stats.logits_LTE[layer, t].softmax(-1).tolist()):
                p[e] += value
        out.append(EXPERTS * sum(fi / (TOP_K * n) * pi / n for fi, pi in zip(f, p, strict=True)) if n else 0.0)
    return out


def test_equals_the_formula_in_plain_python():
    valid = torch.rand(128, generator=torch.Generator().manual_seed(1)) > 0.3
    stats = make_stats(valid=valid)
    expected = torch.tensor([reference_block(stats, b) for b in range(4)], dtype=torch.float64).T
    got = lbl_per_block(frequency=stats.frequency, prob_sums_LME=stats.prob_sums_LME)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_sequence_scope_is_the_mean_of_one_sequence_losses():
    stats = make_stats(blocks=8)
    alone = [
        lbl(make_stats(sequences=1, blocks=1, logits=stats.logits_LTE[:, i * 16 : (i + 1) * 16])) for i in range(8)
    ]
    torch.testing.assert_close(lbl(stats), torch.stack(alone).mean(), rtol=0, atol=1e-10)


def test_scopes_differ_on_the_same_routing():
    stats = make_stats(blocks=4)
    values = [float(lbl(stats.regrouped(b))) for b in (8, 4, 2, 1)]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.01


def test_uniform_probabilities_give_one():
    # Equal logits: P is uniform whatever top-k picks.
    stats = make_stats(logits=torch.zeros(LAYERS, 128, EXPERTS, dtype=torch.float64))
    torch.testing.assert_close(lbl(stats), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-10)


def test_uniform_frequency_gives_one():
    stats = make_stats()
    uniform = Frequency(torch.full_like(stats.frequency.counts_LME, 7), stats.frequency.tokens_LM)
    torch.testing.assert_close(lbl(stats, uniform), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("collapsed", [2, 4])
def test_collapse_on_k_experts_gives_e_over_k(collapsed):
    logits = torch.full((LAYERS, 128, EXPERTS), -1e4, dtype=torch.float64)
    for t in range(128):
        start = (2 * t) % collapsed
        logits[:, t, start : start + 2] = 0.0
    stats = make_stats(logits=logits)
    expected = torch.tensor(EXPERTS / collapsed, dtype=torch.float64)
    torch.testing.assert_close(lbl(stats), expected, rtol=0, atol=1e-10)


def test_range_is_open_zero_to_e_over_k():
    for seed in range(30):
        scale = 10 ** (seed % 4 - 1)
        generator = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(LAYERS, 128, EXPERTS, generator=generator, dtype=torch.float64)
        values = lbl_per_block(
            frequency=make_stats(logits=logits).frequency, prob_sums_LME=make_stats(logits=logits).prob_sums_LME
        )
        assert (values > 0).all()
        assert (values <= EXPERTS / TOP_K + 1e-12).all()


def test_padding_changes_neither_value_nor_gradient():
    short = make_stats(sequences=4, length=12, blocks=2)
    padded_logits = torch.randn(LAYERS, 4, 16, EXPERTS, dtype=torch.float64)
    padded_logits[:, :, :12] = short.logits_LTE.detach().view(LAYERS, 4, 12, EXPERTS)
    valid = torch.zeros(4, 16, dtype=torch.bool)
    valid[:, :12] = True
    padded = make_stats(sequences=4, length=16, blocks=2, valid=valid.flatten(), logits=padded_logits.flatten(1, 2))
    a, b = lbl(short), lbl(padded)
    a.backward(), b.backward()
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    gradient = padded.logits_LTE.grad.view(LAYERS, 4, 16, EXPERTS)
    torch.testing.assert_close(gradient[:, :, :12].flatten(1, 2), short.logits_LTE.grad, rtol=0, atol=1e-10)
    assert (gradient[:, :, 12:] == 0).all()


def test_an_all_padding_micro_batch_is_finite():
    valid = torch.ones(128, dtype=torch.bool)
    valid[:32] = False
    stats = make_stats(valid=valid)
    loss = lbl(stats)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(stats.logits_LTE.grad).all()
    nothing = make_stats(valid=torch.zeros(128, dtype=torch.bool))
    assert float(lbl(nothing).detach()) == 0.0


def test_expert_permutation_invariance():
    stats = make_stats()
    order = torch.randperm(EXPERTS)
    torch.testing.assert_close(lbl(stats), lbl(make_stats(logits=stats.logits_LTE[..., order])), rtol=0, atol=1e-10)


def test_counts_carry_no_gradient_and_sum_to_k_times_valid_tokens():
    valid = torch.rand(128, generator=torch.Generator().manual_seed(3)) > 0.4
    stats = make_stats(valid=valid)
    counts = stats.frequency.counts_LME
    assert counts.dtype == torch.int64
    assert not counts.requires_grad
    assert torch.equal(counts.sum(-1)[0], TOP_K * valid.view(4, -1).sum(1))
    assert (counts.sum((1, 2)) == TOP_K * valid.sum()).all()


def test_gradient_through_p_is_the_analytic_one():
    """d LBL / d logit_j of token t in block b = E / (M T_b) * p_j (f_j - sum_i f_i p_i)."""
    stats = make_stats(blocks=4)
    lbl(stats, reduction="sum").backward()
    f_LME = stats.frequency.counts_LME.double() / stats.frequency.counts_LME.sum(-1, keepdim=True)
    width = len(stats.valid_T) // stats.blocks
    f_LTE = f_LME.repeat_interleave(width, 1)
    p = stats.logits_LTE.detach().softmax(-1)
    expected = EXPERTS / (4 * width) * p * (f_LTE - (f_LTE * p).sum(-1, keepdim=True))
    torch.testing.assert_close(stats.logits_LTE.grad, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_pooled_over_layers_equals_transformers(masked):
    """K x (micro LBL with all layers pooled before the product) is load_balancing_loss_func."""
    mask = torch.ones(8, 16, dtype=torch.long)
    if masked:
        mask[:, 11:] = 0
        mask[3] = 0
    stats = make_stats(blocks=1, valid=mask.flatten().bool())
    frequency, layers = stats.frequency, LAYERS
    pooled = Frequency(frequency.counts_LME.sum(0, keepdim=True), frequency.tokens_LM.sum(0, keepdim=True))
    ours = load_balancing_loss(frequency=pooled, prob_sums_LME=stats.prob_sums_LME.sum(0, keepdim=True))
    theirs = load_balancing_loss_func(
        tuple(stats.logits_LTE.float()), EXPERTS, TOP_K, attention_mask=mask if masked else None
    )
    torch.testing.assert_close(TOP_K * ours.float(), theirs, rtol=1e-5, atol=1e-6)
    # Ours keeps layers apart, which differs: a collapse that moves with the layer must not look balanced.
    assert layers > 1
    assert abs(float(lbl(stats)) - float(ours)) > 1e-3


def test_layers_are_not_pooled():
    """Each layer collapsed on its own pair of experts: pooled this looks balanced, per layer it is E/K."""
    logits = torch.full((4, 64, EXPERTS), -1e4, dtype=torch.float64)
    for layer in range(4):
        logits[layer, :, 2 * layer : 2 * layer + 2] = 0.0
    stats = make_stats(sequences=4, blocks=1, logits=logits)
    torch.testing.assert_close(lbl(stats), torch.tensor(4.0, dtype=torch.float64), rtol=0, atol=1e-10)


def test_layer_reduction():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert float(reduce_layers(values, "sum")) == 9.0
    assert float(reduce_layers(values, "mean")) == 3.0
    with pytest.raises(ValueError, match="balance.layer_reduction is 'max'; expected 'mean' or 'sum'"):
        reduce_layers(values, "max")


def test_probabilities_are_softmaxed_once():
    stats = make_stats()
    torch.testing.assert_close(stats.probs_LTE, stats.logits_LTE.softmax(-1), rtol=0, atol=1e-12)
    sigmoid = router_probabilities(logits_LTE=stats.logits_LTE, scoring="sigmoid")
    torch.testing.assert_close(sigmoid.sum(-1), torch.ones(LAYERS, 128, dtype=torch.float64))
    low = router_probabilities(logits_LTE=stats.logits_LTE.bfloat16(), scoring="softmax")
    assert low.dtype == torch.float32


def test_z_loss_ignores_padding():
    valid = torch.ones(128, dtype=torch.bool)
    valid[100:] = False
    stats = make_stats(valid=valid)
    expected = (stats.logits_LTE[:, :100].logsumexp(-1) ** 2).mean()
    torch.testing.assert_close(router_z_loss(logits_LTE=stats.logits_LTE, valid_T=valid), expected)


def test_bias_moves_towards_the_idle_experts():
    counts = torch.tensor([[[10, 0, 4, 2]], [[4, 4, 4, 4]]])
    assert bias_step(counts_LME=counts).tolist() == [[-1, 1, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "scoring"), [("deepseek_v3", "sigmoid"), ("qwen3_moe", "softmax")])
def test_how_routers_score_is_asked_again_until_they_tell(family, scoring, dtype):
    """Routers that begin at zero, as in a mixture made of a dense model, agree with every score, and so do weights that
    rounding makes equal."""
    module = MoELM(model=tiny_model(family=family, dtype=dtype), micro_batch=1)
    batch = {"input_ids": torch.arange(8)[None]}
    with torch.no_grad():
        for spread in (0.0, 1e-4, 1.0):
            for router in module.tap.routers:
                router.weight.normal_().mul_(spread)
            module.counts(batch)
    assert module.tap.scoring == scoring
