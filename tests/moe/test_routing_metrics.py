"""What the callback logs of routing while a model trains."""

import copy
from types import SimpleNamespace

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_modules.moe.callbacks import routing_metrics
from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics
from tests.moe.test_models import tokenizer  # noqa: F401, a fixture
from tests.moe.toy import fit

STEP, RECENT = "moe/maxvio_micro", "moe/maxvio_micro_recent"
SCOPE = "moe/balance_bsz"


class Watched(RoutingMetrics):
    """Keeps what was logged and the state after every step."""

    def __init__(self):
        super().__init__()
        self.logged, self.states = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.logged.append({name: float(trainer.callback_metrics[name]) for name in (STEP, RECENT, SCOPE)})
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


def test_the_balance_batch_size_is_that_of_the_step_also_when_the_scope_is_switched(monkeypatch):
    monkeypatch.setattr(routing_metrics, "logs_now", lambda *_: True)
    watched = Watched()
    fit(callbacks=[ExpertFrequencySync(from_step=1, until_step=3), watched], steps=5)
    assert [found[SCOPE] for found in watched.logged] == [2, 16, 16, 2, 2]


def test_a_test_of_the_best_checkpoint_forgets_nothing_of_training_and_the_card_tells_its_step(
    monkeypatch,
    tmp_path,
    tokenizer,  # noqa: F811
):
    monkeypatch.setattr(routing_metrics, "logs_now", lambda *_: True)
    watched = Watched()
    best = ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=2, filename="{step}")
    _, module, trainer = fit(callbacks=[watched, best], steps=6)
    after = watched.state_dict()
    trainer.test(module, datamodule=trainer.datamodule, ckpt_path=tmp_path / "step=2.ckpt", verbose=False)
    assert len(after["loads"]) == 6
    assert watched.state_dict() == after
    module.export(tmp_path / "export", datamodule=SimpleNamespace(tokenizer=tokenizer))
    assert "trained by Facet for 2 steps." in (tmp_path / "export" / "README.md").read_text()
