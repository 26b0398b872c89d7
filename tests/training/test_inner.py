"""Trainings inside a run take place where the run's own trainer would."""

import contextlib

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_modules.training.finite_loss import NonFiniteLossError
from lightning_modules.training.inner import Machine, device, inner_trainer, on_machine_of, precision
from tests import pretended


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = set()

    def training_step(self, batch, batch_idx):
        self.seen.add((batch.device.type, self.layer(batch).dtype))
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(**trainer):
    module = Line()
    with on_machine_of(trainer):
        inner_trainer(max_steps=2).fit(module, DataLoader(torch.ones(4, 1)))
    return module


def test_where_it_runs_is_the_cpu_unless_a_trainer_says_otherwise():
    assert (device(), precision()) == (torch.device("cpu"), "32-true")
    assert trained().seen == {("cpu", torch.float32)}
    assert trained(precision="bf16-mixed").seen == {("cpu", torch.bfloat16)}
    with pretended.machine():
        with on_machine_of({"strategy": pretended.strategy(), "accelerator": "gpu"}):
            assert device() == pretended.DEVICE
        module = trained(strategy=pretended.strategy(), accelerator="gpu")
        # Others may share what it trained: it stays where they use it.
        assert module.seen == {("pretend", torch.float32)} and module.layer.weight.device == pretended.DEVICE
    assert device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("rank", "devices", "own"),
    [(None, "auto", 1), ("2", "auto", [2]), (None, [3], [3]), ("1", "4,5,", [5]), ("1", 2, [1])],
)
def test_each_process_takes_a_device_of_its_own(rank, devices, own, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert Machine({"accelerator": "cuda", "devices": devices}).settings["devices"] == own
    assert Machine({"accelerator": "cpu", "devices": devices}).settings["devices"] == 1


@pytest.mark.parametrize("device", ["cpu", "another"])
def test_a_training_whose_loss_is_no_number_is_no_result(device):
    class Broken(Line):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("nan") if batch_idx else 1)

    with contextlib.ExitStack() as machine:
        if device == "another":
            machine.enter_context(pretended.machine())
            machine.enter_context(on_machine_of({"strategy": pretended.strategy(), "accelerator": "gpu"}))
        trainer = inner_trainer(max_steps=2)
        with pytest.raises(NonFiniteLossError, match="step 1: stopped before"):
            trainer.fit(Broken(), DataLoader(torch.ones(4, 1)))


def test_a_last_step_that_makes_a_weight_infinite_is_no_result():
    class Wild(Line):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=float("inf"))

    with pytest.raises(NonFiniteLossError, match="weight layer.weight is not finite after optimizer step 1"):
        inner_trainer(max_steps=1).fit(Wild(), DataLoader(torch.ones(4, 1)))
