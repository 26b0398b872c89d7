"""Pretraining in the real Trainer: a step is one mean over its masked words, however it is dealt."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy

from lightning_modules.prompt.pretraining import MaskedLM
from tests.prompt import tiny, toy
from tests.ranks import run_ranks


class First(pl.Callback):
    """The gradient of the first optimizer step."""

    gradient = None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradient = self.gradient or {n: p.grad.clone() for n, p in pl_module.named_parameters()}


def fit(rank, ranks, accumulate, batch, cache):
    """What a rank saw in its first step and in validation, the gradient and what was measured."""
    pl.seed_everything(0, verbose=False)
    spec, first = toy.spec(cache, batch=batch, sentences=64), First()
    module, data = MaskedLM(backbone=spec), spec.data()
    data.held_out, data.eval_batch = 32, 32 // ranks
    machine = dict(devices=ranks, strategy="ddp") if ranks > 1 else {}
    trainer = tiny.trainer(1, callbacks=[first], accumulate_grad_batches=accumulate, num_sanity_val_steps=0, **machine)
    trainer.fit(module, datamodule=data)
    measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
    batches = [data.train_batch(forward) for forward in range(accumulate)]
    return batches, first.gradient, measured, list(data.val_dataloader()), module.state_dict()


@pytest.mark.parametrize(("ranks", "accumulate", "batch"), [(1, 4, 4), (2, 2, 4)])
def test_a_step_is_one_mean_however_it_is_dealt(ranks, accumulate, batch, tmp_path):
    """Here some forwards have no masked label at all."""
    found = run_ranks(fit, ranks, accumulate, batch, tmp_path)
    batches = [own for rank in found for own in rank[0]]
    assert any(len(own["tagged"]) == 0 for own in batches)
    pl.seed_everything(0, verbose=False)
    module = MaskedLM(backbone=toy.spec(tmp_path, batch=batch, sentences=64)).train()
    losses = [cross_entropy(module(own), own["words"], reduction="none") for own in batches]
    of_kinds = (torch.cat([x[own[k]] for x, own in zip(losses, batches, strict=True)]) for k in ("untagged", "tagged"))
    sum(loss.mean() for loss in of_kinds).backward()
    for name, weight in module.named_parameters():
        torch.testing.assert_close(found[0][1][name], weight.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_validation_of_two_processes_is_a_mean_over_words(tmp_path):
    found = run_ranks(fit, 2, 1, 16, tmp_path)
    *_, measured, _, state = found[0]
    module = MaskedLM(backbone=toy.spec(tmp_path, batch=16, sentences=64))
    module.load_state_dict(state)
    batches = [own for rank in found for own in rank[3]]
    words = sum(len(own["words"]) for own in batches)
    assert words % 2, "their mean over the ranks is no whole number"
    with torch.no_grad():
        expected = (
            sum(float(cross_entropy(module.eval()(own), own["words"], reduction="sum")) for own in batches) / words
        )
    assert measured["val/loss"] == pytest.approx(expected, rel=1e-5)
