"""Every scope of the balance takes its steps on a device that is not the CPU, with the CPU's losses."""

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.moe.callbacks.aux_free_bias import AuxFreeBias
from lightning_modules.moe.callbacks.expert_frequency_sync import MODES, ExpertFrequencySync
from lightning_modules.moe.callbacks.held_out import HeldOutEvaluation
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics
from lightning_modules.training.cadence import logs_now
from lightning_modules.training.finite_loss import FiniteLoss, NonFiniteLossError
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.training.throughput import Throughput
from tests import pretended
from tests.moe.toy import fit, tiny_model
from tests.results import took_its_steps


def balance(scope):
    return {"micro": [], "aux_free": [AuxFreeBias()]}.get(scope) or (
        [ExpertFrequencySync(mode=scope)] if scope in MODES else []
    )


def model(scope):
    # Moving to the pretended device unties tied weights, which moving to a real one does not.
    return tiny_model("deepseek_v3" if scope == "aux_free" else "qwen3_moe", tie_embeddings=False)


@pytest.mark.slow
@pytest.mark.machines
@pytest.mark.parametrize("scope", ["micro", *MODES, "aux_free"])
def test_the_losses_are_those_of_the_cpu(scope, tmp_path):
    settings = dict(steps=5, accumulate=2, weight=1.0)
    expected, _, _ = fit(callbacks=balance(scope), model=model(scope), **settings)
    measured = [RoutingMetrics(), HeldOutEvaluation(folder=str(tmp_path)), FiniteLoss(), Throughput()]
    with pretended.machine(float64=False):
        callbacks = [*balance(scope), *measured]
        found, _, trainer = fit(callbacks=callbacks, model=model(scope), strategy=pretended.strategy(), **settings)
    assert trainer.strategy.root_device.type == "pretend"
    difference = max(abs(a - b) for a, b in zip(found.loss, expected.loss, strict=True))
    took_its_steps(
        f"moe: {scope}", on="pretended device", steps=5, equal_to="the CPU", difference=difference, limit=1e-5
    )
    assert found.lbl == pytest.approx(expected.lbl, abs=1e-5)


class WaitsOfAStep(pl.Callback):
    """Where the host waited within each micro-step, but for those that log; stands last."""

    def __init__(self):
        self.places = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.before = pretended.waits.copy()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not logs_now(trainer, batch_idx):
            self.places.append(dict(pretended.waits - self.before))


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["micro", *MODES, "aux_free"])
def test_no_host_waits_within_a_micro_step_and_no_collective_is_given_a_cpu_tensor(scope, tmp_path):
    """On the first of two ranks, with all that a run has; the start and the log lines may wait."""
    seen = WaitsOfAStep()
    point = ResumePoint(folder=str(tmp_path), every_n_steps=3)
    callbacks = [*balance(scope), RoutingMetrics(), FiniteLoss(), Throughput(), point, seen]
    callbacks.append(HeldOutEvaluation(folder=str(tmp_path)))
    with pretended.machine(float64=False), pretended.two_ranks():
        _, module, trainer = fit(
            callbacks=callbacks, model=model(scope), strategy=pretended.strategy(), steps=4, accumulate=2, curve=False
        )
        assert trainer.world_size == 2
        trainer.test(module, dataloaders=trainer.datamodule.val_dataloader(), verbose=False)
    assert (tmp_path / "last.ckpt").is_file()
    assert len(seen.places) == 8
    assert seen.places[1:] == [{}] * 7


@pytest.mark.slow
def test_the_host_waits_for_no_loss_between_two_log_lines():
    """Twenty micro-steps and one validation: the losses and the weights are waited for a few times, not at every step."""
    callbacks = [FiniteLoss(), Throughput()]
    with pretended.machine():
        fit(callbacks=callbacks, model=model("micro"), strategy=pretended.strategy(), steps=10, accumulate=2)
    seen = {place.partition(":")[0]: count for place, count in pretended.waits.items() if "training/" in place}
    assert 0 < seen["lightning_modules/training/finite_loss.py"] <= 6
    assert "lightning_modules/training/throughput.py" not in seen


def test_a_loss_that_is_no_number_is_named_with_its_step():
    class Broken(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 3:
                next(module.parameters()).data.fill_(float("nan"))

    callbacks = [Broken(), FiniteLoss()]
    with pretended.machine(), pytest.raises(NonFiniteLossError, match="loss was not finite at optimizer step 3"):
        fit(callbacks=callbacks, model=model("micro"), strategy=pretended.strategy(), steps=10)


def test_what_cuda_refuses_is_refused():
    with pretended.machine(float64=False):
        device = torch.randn(3, device="pretend")
        assert torch.equal((device + 1).cpu(), device.cpu() + 1)
        with pytest.raises(RuntimeError, match="same device"):
            device + torch.randn(3)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device="pretend", generator=torch.Generator())
        with pytest.raises(TypeError, match="numpy"):
            device.numpy()
        with pytest.raises(TypeError, match="float64"):
            device.double()
