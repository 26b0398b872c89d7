"""Saves what an exact resume needs, where a resume is exact: between two optimizer steps, validation done."""

import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from lightning_modules.common.bounds import Count
from lightning_modules.training.checkpoints import LAST
from lightning_modules.training.stop import Preempted, handled


class ResumePoint(Checkpoint):
    """Writes last.ckpt under `folder` every `every_n_steps` optimizer steps, and when SIGTERM or Ctrl-C asks to stop.

    Beside Lightning's state it holds every rank's random state. A step at which validation is due is saved after it, and
    none before its metrics are logged.
    """

    def __init__(self, *, folder: str, every_n_steps: Count = 200) -> None:
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self._saved_at, self._signal = 0, 0
        self._due = False
        self.metrics: dict[str, float] = {}
        self._random: list[dict[str, Any]] | None = None
        self._listening = contextlib.ExitStack()
        # Processes agree over gloo, so that none of them waits for its device to do so.
        self._hosts: dist.ProcessGroup | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = trainer.global_step
        if trainer.world_size > 1:
            self._hosts = dist.new_group(backend="gloo")
        if self._random is not None:
            refuse_other_processes(self._random, trainer.world_size)
            set_random_state(self._random[trainer.global_rank])
        self._listening.enter_context(handled(self._ask_to_stop))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._listening.close()
        self._hosts = None

    def _ask_to_stop(self, number: int, _frame: Any) -> None:
        # A sweep hands Ctrl-C on as SIGTERM to a job that the terminal has told already: that is one wish.
        if number == self._signal == signal.SIGINT:
            raise Preempted(number, saved=False)
        self._signal = self._signal or number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._signal = self._agree(trainer)
        self._due = self._due or bool(self._signal) or trainer.global_step % self.every_n_steps == 0
        loop: Any = trainer.fit_loop
        if self._due and not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            # Lightning logs a step after this hook: a run that dies in between would go on behind a point that nobody has.
            # What it logs again the tracker drops.
            trainer._logger_connector.update_train_step_metrics()
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        after_a_step = (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if trainer.state.fn == "fit" and not trainer.sanity_checking and after_a_step:
            self._save(trainer)

    def _agree(self, trainer: pl.Trainer) -> int:
        """The signal that any rank received: all must stop at the same step."""
        if trainer.world_size == 1:
            return self._signal
        number = torch.tensor(self._signal)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._hosts)
        return int(number)

    def _save(self, trainer: pl.Trainer) -> None:
        if not self._due:
            return
        self._due = False
        if trainer.global_step > self._saved_at:
            self._saved_at = trainer.global_step
            trainer.save_checkpoint(self.folder / LAST)
        if self._signal:
            raise Preempted(self._signal)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states: list[Any] = [random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            dist.all_gather_object(states, random_state(), group=self._hosts)
        checkpoint["random_states"] = states
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            self._random, self.metrics = checkpoint["random_states"], checkpoint["metrics"]
            states = checkpoint["callbacks"]
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.state_key in states:
                    states[callback.state_key] = moved(states[callback.state_key], to=str(callback.dirpath))


def moved(state: dict[str, Any], *, to: str) -> dict[str, Any]:
    """State of a ModelCheckpoint whose folder is `to` now, as after a move or under another mount.

    Lightning would forget how good the best was, save a worse one in its place, and look for it where it was.
    """

    def there(path: str) -> str:
        below = Path(path).is_relative_to(state["dirpath"])
        return os.path.join(to, os.path.relpath(path, state["dirpath"])) if below else path

    paths = {key: there(path) for key, path in state.items() if key.endswith("_model_path")}
    best = {there(path): score for path, score in state["best_k_models"].items()}
    return {**state, **paths, "best_k_models": best, "dirpath": to}


def refuse_other_processes(states: list[Any], processes: int) -> None:
    """ValueError for the random states of another number of processes than this run's."""
    if len(states) != processes:
        raise ValueError(
            f"this run was started on {len(states)} processes and is resumed on {processes}: it would not be the same run. "
            f"Set trainer.devices={len(states)}, or start anew with fresh=true."
        )


def random_state() -> dict[str, Any]:
    """Of Python, NumPy and torch on every device, in plain containers that load with weights_only."""
    numpy: tuple[Any, ...] = np.random.get_state(legacy=True)  # type: ignore[assignment]  # its stubs know legacy=False too
    kind, keys, position, has_gauss, cached = numpy
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
