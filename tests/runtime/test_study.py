"""A study that is asked to stop."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.runtime.run import _study
from lightning_modules.training.inner import inner_trainer
from lightning_modules.training.stop import Preempted, stoppable


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Asked:
    """Gets a signal, while it trains something or between; `went_on` if it did not stop there."""

    def __init__(self, number, *, training):
        self.number, self.training, self.went_on = number, training, False

    def prepare(self):
        pass

    def run(self, desk):
        def kill(*_):
            os.kill(os.getpid(), self.number)

        if self.training:
            asking = pl.callbacks.LambdaCallback(on_train_batch_start=kill)
            inner_trainer(max_steps=4, callbacks=[asking]).fit(Line(), DataLoader(torch.ones(4, 1)))
        else:
            kill()
        self.went_on = True
        return {}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_where_it_is_and_says_so_by_its_exit_code(tmp_path, number, training):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    study = Asked(number, training=training)
    with pytest.raises(Preempted) as stopped, stoppable():
        _study(study, folder=tmp_path, tracker=None)
    assert stopped.value.code == 128 + number
    assert not study.went_on
    assert {n: signal.getsignal(n) for n in before} == before
