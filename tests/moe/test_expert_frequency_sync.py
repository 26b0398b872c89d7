"""The synchronised loss on R ranks x A accumulation steps equals one process on the concatenated batch (1e-10).

The setting is a linear router in float64 whose gradients are averaged over ranks as DDP does, and divided by A as
Lightning does.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.moe.losses import Frequency, load_balancing_loss
from lightning_modules.moe.routing import ExpertFrequency, RouterStats
from tests.ranks import run_ranks

LAYERS, EXPERTS, TOP_K, WIDTH = 2, 8, 2, 5
MICRO, BLOCKS, LENGTH, STEPS = 2, 2, 6, 3  # sequences a block, blocks a forward, tokens, accumulation steps
MAX_RANKS = 4


def window(padded: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Router weights [L, E, D], inputs [A, R, tokens, D] and valid [A, R, tokens] for the largest world."""
    generator = torch.Generator().manual_seed(7)
    tokens = BLOCKS * MICRO * LENGTH
    weight = torch.randn(LAYERS, EXPERTS, WIDTH, generator=generator, dtype=torch.float64)
    inputs = torch.randn(STEPS, MAX_RANKS, tokens, WIDTH, generator=generator, dtype=torch.float64)
    # Ranks and steps see different kinds of tokens, so that modes differ plainly.
    inputs = inputs + 2 * torch.randn(STEPS, MAX_RANKS, 1, WIDTH, generator=generator, dtype=torch.float64)
    valid = torch.ones(STEPS, MAX_RANKS, tokens, dtype=torch.bool)
    if padded:
        valid = torch.rand(STEPS, MAX_RANKS, tokens, generator=generator) > 0.35
        valid[0, 0, : MICRO * LENGTH] = False  # a block of padding only
    return weight, inputs, valid


def route(weight, inputs_TD, valid_T, blocks=BLOCKS) -> RouterStats:
    logits = torch.einsum("led,td->lte", weight, inputs_TD)
    return RouterStats(logits, logits.topk(TOP_K, -1).indices, valid_T, blocks)


def loss_of(stats: RouterStats, frequency: Frequency) -> torch.Tensor:
    return load_balancing_loss(frequency=frequency, prob_sums_LME=stats.prob_sums_LME)


class Router(torch.nn.Module):
    """Just enough of MoELM for the callback: `expert_frequency`, `counts` and `routing`."""

    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight.clone())
        self.expert_frequency = ExpertFrequency()

    def counts(self, batch):
        return self.routing(batch).frequency

    def routing(self, batch):
        return route(self.weight, batch["input_ids"], batch["attention_mask"])


def fake_trainer(rank, ranks, batches):
    from contextlib import nullcontext

    return SimpleNamespace(
        training=True,
        global_step=0,
        world_size=ranks,
        global_rank=rank,
        accumulate_grad_batches=STEPS,
        current_epoch=0,
        fit_loop=SimpleNamespace(total_batch_idx=0),
        datamodule=SimpleNamespace(train_batch=lambda index: batches[index]),
        precision_plugin=SimpleNamespace(train_step_context=nullcontext),
        strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
    )


def one_rank(rank, ranks, mode, padded, steps):
    """Losses per step, the averaged gradient, and the collectives of one rank over one accumulation window."""
    weight, inputs, valid = window(padded)
    module = Router(weight)
    batches = [{"input_ids": inputs[a, rank], "attention_mask": valid[a, rank]} for a in range(steps)]
    trainer = fake_trainer(rank, ranks, batches)
    trainer.accumulate_grad_batches = steps
    sync = ExpertFrequencySync(mode=mode)
    sync.setup(trainer, module, "fit")
    losses, frequencies = [], []
    for step, batch in enumerate(batches):
        trainer.fit_loop.total_batch_idx = step
        sync.on_train_batch_start(trainer, module, batch, step)
        stats = module.routing(batch)
        frequency = module.expert_frequency(stats)
        loss = loss_of(stats, frequency)
        (loss / steps).backward()
        losses.append(loss.detach())
        frequencies.append(frequency.counts_LME)
    sync.on_before_optimizer_step(trainer, module, None)
    gradient = module.weight.grad
    if ranks > 1:
        dist.all_reduce(gradient)
        gradient /= ranks
    return {
        "losses": torch.stack(losses),
        "gradient": gradient,
        "counts": torch.stack(frequencies),
        "collectives": sync.collectives,
        "blocks": sync.balance_blocks,
    }


def concatenated(ranks, steps, padded):
    """Loss and gradient of one process on steps x ranks forwards as a single block."""
    weight, inputs, valid = window(padded)
    weight.requires_grad_()
    stats = route(weight, inputs[:steps, :ranks].flatten(0, 2), valid[:steps, :ranks].flatten(), blocks=1)
    loss = loss_of(stats, stats.frequency)
    loss.backward()
    return loss.detach(), weight.grad, stats.frequency.counts_LME[:, 0]


def mean_loss(results, step):
    return torch.stack([r["losses"][step] for r in results]).mean()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_ranks_equal_one_process(ranks, padded):
    results = run_ranks(one_rank, ranks, "ranks", padded, 1)
    loss, gradient, counts = concatenated(ranks, 1, padded)
    close(mean_loss(results, 0), loss)
    for result in results:
        close(result["gradient"], gradient)
        assert torch.equal(result["counts"][0, :, 0], counts)
        assert result["collectives"] == (ranks > 1)
        assert result["blocks"] == ranks * BLOCKS


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_two_pass_equals_one_process_over_the_window(ranks, padded):
    results = run_ranks(one_rank, ranks, "two_pass", padded, STEPS)
    loss, gradient, counts = concatenated(ranks, STEPS, padded)
    close(torch.stack([mean_loss(results, a) for a in range(STEPS)]).mean(), loss)
    for result in results:
        close(result["gradient"], gradient)
        assert torch.equal(result["counts"][-1, :, 0], counts)
        assert result["collectives"] == (ranks > 1)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_buffer_is_the_prefix_formula_at_every_step(ranks, padded):
    results = run_ranks(one_rank, ranks, "buffer", padded, STEPS)
    weight, inputs, valid = window(padded)
    for step in range(STEPS):
        prefix = route(weight, inputs[: step + 1, :ranks].flatten(0, 2), valid[: step + 1, :ranks].flatten(), blocks=1)
        now = route(weight, inputs[step, :ranks].flatten(0, 1), valid[step, :ranks].flatten(), blocks=1)
        expected = loss_of(now, Frequency(prefix.frequency.counts_LME, now.frequency.tokens_LM))
        close(mean_loss(results, step), expected)
        assert torch.equal(results[0]["counts"][step, :, 0], prefix.frequency.counts_LME[:, 0])
    assert torch.equal(results[0]["counts"][-1, :, 0], concatenated(ranks, STEPS, padded)[2])
    assert results[0]["blocks"] == ranks * BLOCKS * STEPS


def test_buffer_is_not_the_concatenated_batch():
    """The trap that the mode `two_pass` is there for."""
    gradient = run_ranks(one_rank, 1, "buffer", False, STEPS)[0]["gradient"]
    expected = concatenated(1, STEPS, False)[1]
    assert (gradient - expected).norm() / expected.norm() > 0.01


@pytest.mark.parametrize("ranks", [1, 2])
def test_shuffle_deals_every_token_of_the_global_batch_once(ranks):
    results = run_ranks(one_rank, ranks, "shuffle", False, 1)
    weight, inputs, valid = window(False)
    whole = route(weight, inputs[0, :ranks].flatten(0, 1), valid[0, :ranks].flatten(), blocks=1)
    own = route(weight, inputs[0, 0], valid[0, 0]).frequency.counts_LME
    deals = torch.cat([r["counts"][0] for r in results], 1)
    assert torch.equal(deals.sum(1), whole.frequency.counts_LME[:, 0])
    assert (deals.sum(-1) == TOP_K * MICRO * LENGTH).all(), "every deal is as large as a micro-batch"
    assert not torch.equal(deals[:, :BLOCKS], own)
    assert results[0]["collectives"] == (ranks > 1)


def test_window_is_reset_by_the_optimizer_step_and_only_there():
    module, sync = Router(window(False)[0]), ExpertFrequencySync(mode="buffer")
    _, inputs, valid = window(False)
    trainer = fake_trainer(0, 1, [])
    sync.setup(trainer, module, "fit")

    def total(step):
        return int(
            module.expert_frequency(route(module.weight, inputs[step, 0], valid[step, 0])).counts_LME[0, 0].sum()
        )

    tokens = BLOCKS * MICRO * LENGTH * TOP_K
    assert total(0) == tokens
    # Lightning calls this after the first micro-step of a window: its counts must survive.
    sync.on_before_zero_grad(trainer, module, None)
    assert total(1) == 2 * tokens
    trainer.training = False
    assert total(2) == MICRO * LENGTH * TOP_K, "validation keeps its own counts"
    trainer.training = True
    assert total(2) == 3 * tokens, "validation left the window untouched"
    sync.on_before_optimizer_step(trainer, module, None)
    assert total(0) == tokens


def test_schedule_switches_the_scope_at_a_step():
    module, sync = Router(window(False)[0]), ExpertFrequencySync(mode="ranks", from_step=3, until_step=5)
    _, inputs, valid = window(False)
    trainer = fake_trainer(0, 1, [])
    sync.setup(trainer, module, "fit")
    stats = route(module.weight, inputs[0, 0], valid[0, 0])
    synced = []
    for trainer.global_step in range(7):
        synced.append(bool((module.expert_frequency(stats).counts_LME[:, 0] != stats.frequency.counts_LME[:, 0]).any()))
    assert synced == [False, False, False, True, True, False, False]


def test_teardown_leaves_no_hook():
    module, sync = Router(window(False)[0]), ExpertFrequencySync()
    sync.setup(fake_trainer(0, 1, []), module, "fit")
    sync.teardown(None, module, "fit")
    assert not module.expert_frequency._forward_hooks


def test_unknown_mode():
    with pytest.raises(ValueError, match="mode is 'everything'; expected one of ranks, buffer, two_pass, shuffle"):
        ExpertFrequencySync(mode="everything")
