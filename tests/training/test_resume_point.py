"""No point of a curve is lost to a run that is killed, or told to stop, just after it saved."""

import os
import signal

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger

from lightning_modules.training.checkpoints import LAST, CheckedCheckpoints
from lightning_modules.training.resume_point import ResumePoint, moved
from lightning_modules.training.stop import Preempted
from tests.moe.toy import fit

STEPS, SAVED = 7, 3


class Points(Logger):
    """Keeps each point once, as the tracker does."""

    name, version = "points", 0

    def __init__(self):
        super().__init__()
        self.loss = {}

    def log_metrics(self, metrics, step=None):
        if "train/loss" in metrics:
            self.loss.setdefault(step, metrics["train/loss"])

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class Killed(BaseException):
    pass


class DiesOnceSaved(ResumePoint):
    def _save(self, trainer):
        before = self._saved_at
        super()._save(trainer)
        if self._saved_at != before:
            raise Killed


class IsToldToStop(ResumePoint):
    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == SAVED:
            os.kill(os.getpid(), signal.SIGTERM)
        super().on_train_batch_end(trainer, *rest)


@pytest.mark.parametrize(("point", "end"), [(DiesOnceSaved, Killed), (IsToldToStop, Preempted)])
def test_the_step_that_was_saved_is_logged(tmp_path, point, end):
    points, whole = Points(), Points()
    how = dict(steps=STEPS, plugins=[CheckedCheckpoints()], curve=False)
    with pytest.raises(end):
        fit(callbacks=[point(folder=str(tmp_path), every_n_steps=SAVED)], logger=points, **how)
    assert sorted(points.loss) == list(range(SAVED)), "as many points as steps were saved"
    fit(callbacks=[ResumePoint(folder=str(tmp_path), every_n_steps=99)], logger=points, resume=tmp_path / LAST, **how)
    fit(logger=whole, **how)
    assert points.loss == whole.loss
    assert len(whole.loss) == STEPS


def test_a_folder_that_was_moved_keeps_its_best(tmp_path):
    """Trained on at a rate that makes it worse: what was the best before is the best."""

    def trained(folder, *, steps, **how):
        best = ModelCheckpoint(dirpath=folder, filename="best", monitor="train/loss", enable_version_counter=False)
        last = ResumePoint(folder=str(folder), every_n_steps=5)
        fit(callbacks=[best, last], steps=steps, plugins=[CheckedCheckpoints()], curve=False, **how)
        return best

    before = trained(tmp_path / "then", steps=10)
    # Better than whatever comes.
    path = tmp_path / "then" / LAST
    saved = torch.load(path, weights_only=True)
    state = next(state for key, state in saved["callbacks"].items() if key.startswith("ModelCheckpoint"))
    state["best_k_models"] = dict.fromkeys(state["best_k_models"], torch.tensor(0.5))
    CheckedCheckpoints().save_checkpoint(saved, path)
    kept = (tmp_path / "then" / "best.ckpt").read_bytes()
    (tmp_path / "then").rename(tmp_path / "now")
    after = trained(tmp_path / "now", steps=20, resume=tmp_path / "now" / LAST)
    assert before.best_model_path == str(tmp_path / "then" / "best.ckpt")
    assert after.best_model_path == after.kth_best_model_path == str(tmp_path / "now" / "best.ckpt")
    assert after.best_k_models == {after.best_model_path: torch.tensor(0.5)}
    assert (tmp_path / "now" / "best.ckpt").read_bytes() == kept


def test_what_was_saved_elsewhere_stays_where_it_is():
    state = {"dirpath": "/a/b", "best_model_path": "/a/bc/best.ckpt", "last_model_path": "", "best_k_models": {}}
    assert moved(state, to="/new") == {**state, "dirpath": "/new"}
