"""No point of a curve is lost to a run that is killed, or told to stop, just after it saved."""

import os
import signal

import pytest
from pytorch_lightning.loggers.logger import Logger

from lightning_modules.training.checkpoints import LAST, CheckedCheckpoints
from lightning_modules.training.resume_point import ResumePoint
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
