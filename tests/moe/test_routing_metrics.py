"""What the callback logs of routing while a model trains."""

import copy

import pytest

from lightning_modules.moe.callbacks import routing_metrics
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics
from tests.moe.toy import fit

STEP, RECENT = "moe/maxvio_micro", "moe/maxvio_micro_recent"


class Watched(RoutingMetrics):
    """Keeps what was logged and the state after every step."""

    def __init__(self):
        super().__init__()
        self.logged, self.states = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.logged.append({name: float(trainer.callback_metrics[name]) for name in (STEP, RECENT)})
        self.states.append(copy.deepcopy(self.state_dict()))


def test_the_recent_violation_is_the_mean_of_the_last_steps_also_after_a_resume(monkeypatch):
    monkeypatch.setattr(routing_metrics, "RECENT", 4)
    monkeypatch.setattr(routing_metrics, "logs_now", lambda *_: True)
    watched = Watched()
    fit(callbacks=[watched], steps=8)
    values, recent = ([found[name] for found in watched.logged] for name in (STEP, RECENT))
    assert len(set(values)) > 4
    assert recent == pytest.approx([sum(last) / len(last) for n in range(8) if (last := values[max(0, n - 3) : n + 1])])
    resumed = RoutingMetrics()
    resumed.load_state_dict(watched.states[5])
    assert resumed.violations == [(step, pytest.approx(values[step - 1])) for step in (3, 4, 5, 6)]
