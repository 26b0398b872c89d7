"""The loss and the callback inside the real Lightning Trainer."""

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.moe.callbacks.aux_free_bias import AuxFreeBias
from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.moe.families import FAMILIES
from lightning_modules.training.finite_loss import FiniteLoss, NonFiniteLossError
from lightning_modules.training.whole_windows import WholeWindows
from tests.families.moe import built, families
from tests.moe.toy import Documents, Padded, ToyData, fit, fit_rank, tiny_model
from tests.ranks import run_ranks


@pytest.mark.parametrize(("mode", "accumulate"), [("ranks", 1), ("two_pass", 2)])
def test_two_ranks_equal_one_rank_with_twice_the_micro_batches(mode, accumulate):
    """20 optimizer steps in float32 to 1e-6; one rank holds all 16 sequences, two hold 8 each."""
    two = run_ranks(fit_rank, 2, mode, accumulate)
    one = fit_rank(0, 1, mode, accumulate)
    assert len(one["loss"]) == 20 * accumulate
    mean_of_ranks = [sum(pair) / 2 for pair in zip(two[0]["loss"], two[1]["loss"], strict=True)]
    torch.testing.assert_close(mean_of_ranks, one["loss"], rtol=0, atol=1e-6)
    for name, value in one["state"].items():
        torch.testing.assert_close(two[0]["state"][name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "ranks", "accumulate"),
    [(Documents, 1, 4), (Documents, 2, 1), (Documents, 2, 2), (Padded, 1, 4), (Padded, 2, 2)],
)
def test_a_step_is_one_mean_however_it_is_dealt(data, ranks, accumulate):
    """Forwards that hold more ends of documents have fewer targets, and those with more padding fewer tokens."""
    whole = fit_rank(0, 1, "two_pass", 1, data, 0.1)
    asked = ("two_pass", accumulate, data, 0.1)
    parts = run_ranks(fit_rank, ranks, *asked) if ranks > 1 else [fit_rank(0, 1, *asked)]
    dealt = torch.tensor([part["loss"] for part in parts]).view(ranks, -1, accumulate).mean((0, 2))
    torch.testing.assert_close(dealt, torch.tensor(whole["loss"]), rtol=0, atol=1e-5)
    for name, value in whole["state"].items():
        torch.testing.assert_close(parts[0]["state"][name], value, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def fit_family(rank, ranks, family):
    net = built(*families()[family])
    curve, module, _ = fit(model=net.train(), steps=3, ranks=ranks)
    return {"loss": curve.loss, "state": module.state_dict()}


@pytest.mark.slow
def test_two_processes_train_a_family_whose_indexer_only_chooses():
    one, two = fit_family(0, 1, "glm_moe_dsa"), run_ranks(fit_family, 2, "glm_moe_dsa")
    found = torch.tensor([rank["loss"] for rank in two]).mean(0)
    torch.testing.assert_close(found, torch.tensor(one["loss"]), rtol=0, atol=1e-5)
    for name, value in one["state"].items():
        torch.testing.assert_close(two[0]["state"][name], value, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_text_of_more_words_than_the_model_has_is_refused():
    class Words:
        @staticmethod
        def get_vocab():
            return {"a": 0, "far": 70}

    data = ToyData(steps=2)
    data.tokenizer = Words()
    with pytest.raises(ValueError, match="has 71 words, and the model is made for 64; expected data.vocab_size=71, or"):
        fit(steps=2, data=data)


def test_scope_changes_the_curve_on_one_process():
    micro = fit(steps=6)[0]
    whole = fit(steps=6, callbacks=[ExpertFrequencySync()])[0]
    assert micro.lbl[0] > whole.lbl[0] + 0.01, "a micro-batch is less balanced than the batch it is part of"
    assert micro.loss[0] == pytest.approx(whole.loss[0], abs=0.02)
    assert micro.loss[-1] != whole.loss[-1]


def test_validation_leaves_the_window_untouched():
    class Window(pl.Callback):
        def __init__(self, sync):
            self.sync, self.at_step_end, self.after_validation = sync, [], []

        def on_train_batch_end(self, trainer, *args):
            self.at_step_end.append(self.sync.window_steps)

        def on_validation_end(self, *args):
            self.after_validation.append(self.sync.window_steps)

    def run(**data):
        sync = ExpertFrequencySync(mode="buffer")
        window = Window(sync)
        curve, _module, _trainer = fit(steps=3, accumulate=4, callbacks=[sync, window], data=ToyData(steps=3))
        return curve, window

    curve, window = run()
    # Validation runs every 5 forwards, so in the middle of a window of 4.
    assert window.at_step_end == [1, 2, 3, 0] * 3
    assert window.after_validation == [1, 2]
    assert curve.loss == run()[0].loss


def test_a_short_last_window_is_refused_early():
    with pytest.raises(
        ValueError, match=r"10 forwards an epoch, which is no multiple of .*accumulate_grad_batches.* 4"
    ):
        fit(steps=5, accumulate=4, callbacks=[WholeWindows()], data=ToyData(steps=5, epoch_forwards=10))
    fit(steps=2, accumulate=2, callbacks=[WholeWindows()], data=ToyData(steps=2, epoch_forwards=10))


@pytest.mark.parametrize("mode", ["ranks", "buffer", "two_pass"])
def test_activation_checkpointing_does_not_count_twice(mode):
    plain = fit(steps=3, accumulate=2, callbacks=[ExpertFrequencySync(mode=mode)])
    checkpointed = fit(
        steps=3,
        accumulate=2,
        callbacks=[ExpertFrequencySync(mode=mode)],
        model=tiny_model(gradient_checkpointing=True),
    )
    assert checkpointed[1].model.is_gradient_checkpointing
    torch.testing.assert_close(plain[0].lbl, checkpointed[0].lbl, rtol=0, atol=1e-6)
    torch.testing.assert_close(plain[0].loss, checkpointed[0].loss, rtol=0, atol=1e-6)


def test_two_pass_is_exact_with_dropout():
    """The counting pass sees the same dropout masks, so its counts are those of the training forwards."""
    counted, used = [], []

    class Compare(ExpertFrequencySync):
        def _global(self, trainer, stats, own):
            counted.append(self._whole_window[0][:, :-1])
            used.append(own.counts_LME.sum(1))
            return super()._global(trainer, stats, own)

    fit(steps=3, accumulate=2, callbacks=[Compare(mode="two_pass")], model=tiny_model(dropout=0.3))
    for step in range(3):
        assert torch.equal(counted[2 * step], used[2 * step] + used[2 * step + 1])


def test_own_auxiliary_loss_of_transformers_plays_no_part():
    model = tiny_model()
    assert model.config.router_aux_loss_coef > 0, "a model keeps its coefficient, for whoever trains it elsewhere"
    model.config.output_router_logits = True
    curve, _module, _ = fit(steps=1, weight=0.0, z_weight=0.0, model=model)
    batch = ToyData().train_batch(0)
    logits = tiny_model()(input_ids=batch["input_ids"]).logits
    ce = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert curve.loss[0] == pytest.approx(float(ce), abs=1e-6)


def test_micro_term_at_one_per_cent():
    stats_loss = {}
    for share in (0.0, 0.01):
        curve, _module, _ = fit(steps=1, weight=1.0, micro_weight=share, callbacks=[ExpertFrequencySync()])
        stats_loss[share] = curve.loss[0]
    micro = fit(steps=1, weight=1.0)[0].lbl[0]
    assert stats_loss[0.01] - stats_loss[0.0] == pytest.approx(0.01 * micro, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains(family):
    curve, _module, _ = fit(steps=8, model=tiny_model(family=family), callbacks=[ExpertFrequencySync()])
    assert curve.loss[-1] < curve.loss[0]
    assert all(0 < value <= 4 for value in curve.lbl)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["batch", "micro"])
def test_aux_free_bias_moves_and_balances(scope):
    kwargs = dict(steps=30, weight=0.0, z_weight=0.0)

    class Violation(pl.Callback):
        def __init__(self):
            self.late = 0.0

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            counts = pl_module.last_routing.frequency.counts_LME.sum(1).double()
            self.late += float((counts.max(-1).values / counts.mean(-1)).mean()) * (batch_idx >= 15)

    moved, left = Violation(), Violation()
    free = fit(model=tiny_model(family="deepseek_v3"), callbacks=[AuxFreeBias(rate=3e-3, scope=scope), moved], **kwargs)
    fixed = fit(model=tiny_model(family="deepseek_v3"), callbacks=[left], **kwargs)
    bias = torch.stack([r.e_score_correction_bias for r in free[1].tap.routers])
    assert float(bias.abs().max()) > 0.01
    assert all(float(r.e_score_correction_bias.abs().max()) == 0 for r in fixed[1].tap.routers)
    assert moved.late < 0.9 * left.late


def test_aux_free_wants_a_correction_bias():
    with pytest.raises(ValueError, match="Qwen3MoeForCausalLM has not; add model.family=deepseek_v3"):
        fit(steps=1, callbacks=[AuxFreeBias()])


def test_a_non_finite_loss_stops_before_the_optimizer_step():
    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.before = {k: v.clone() for k, v in pl_module.state_dict().items()}
            if batch_idx == 2:
                pl_module.weight = float("nan")
            self.module = pl_module

    poison = Poison()
    with pytest.raises(NonFiniteLossError, match="loss is nan at optimizer step 2"):
        fit(steps=5, callbacks=[poison, FiniteLoss()])
    for name, value in poison.module.state_dict().items():
        assert torch.equal(value, poison.before[name])


def test_a_group_that_does_not_divide_the_forward_is_refused():
    with pytest.raises(ValueError, match="is 3 sequences, which does not divide the 16 sequences of one forward"):
        fit(steps=1, block=3, micro_batch=3)
    with pytest.raises(ValueError, match="balance.block is 3 sequences; expected a divisor or a multiple"):
        fit(steps=1, block=3, micro_batch=2)


def test_two_fits_are_bitwise_equal():
    one, two = (fit(steps=20, callbacks=[ExpertFrequencySync(mode="ranks")])[0].loss for _ in range(2))
    assert one == two
