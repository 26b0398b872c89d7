"""The progress bar: optimizer-relevant numbers under short names, so that a line of a terminal holds them."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console
from rich.progress import TimeRemainingColumn
from rich.table import Column

from lightning_modules.common import metric_names as names
from lightning_modules.common.tables import clock

SHORT = {names.TRAIN_TOKENS_PER_SECOND: "tok/s"}
# Seconds between two lines where there is no terminal.
PAUSE = 30.0
# Columns of a terminal that hold a long bar beside the numbers.
WIDE = 100


class Progress(RichProgressBar):
    """Lightning's rich bar with the metrics logged for it: `loss: 4.31 lbl: 1.02 tok/s: 8,120`, one line at 80 columns.

    It counts the forwards of the whole run: Lightning's own counts those of an epoch, whose number changes at a resume.
    Without a terminal there are no bars, but a line at the start, one every half minute, and one before what comes after
    training.
    """

    def __init__(self, *, refresh_rate: int = 5) -> None:
        theme = RichProgressBarTheme(metrics_text_delimiter=" ", metrics_format=".3f")
        super().__init__(refresh_rate=refresh_rate, theme=theme)
        self._began = self._spoke = 0.0
        self._first = 0
        # The bar is drawn on stdout; of several processes the first one speaks.
        self._lines = not Console().is_terminal
        if self._lines:
            self.disable()
        self.train_progress_bar_id: Any

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Lightning's without the speed, which `tok/s` tells; a narrow terminal has a short bar and only the time left."""
        description, bar, done, clock_, *_ = super().configure_columns(trainer)
        bar.bar_width = 30
        if Console().width < WIDE:
            bar.bar_width = 10
            clock_ = TimeRemainingColumn(table_column=Column(no_wrap=True))
        return [description, bar, done, clock_]

    def _init_progress(self, trainer: pl.Trainer) -> None:
        super()._init_progress(trainer)
        if self._metric_component is not None:
            # What does not fit is cut: a second line of numbers would be drawn below the bar at each refresh.
            self._metric_component._table_column = Column(no_wrap=True, overflow="ellipsis")

    @property
    def total_train_batches(self) -> int | float:
        steps = self.trainer.max_steps
        return steps * self.trainer.accumulate_grad_batches if steps > 0 else super().total_train_batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.max_steps > 0:
            done = f", {trainer.global_step} of them done" if trainer.global_step else ""
            self._say(trainer, f"Training: {trainer.max_steps} steps{done}; a line every half minute.")
        self._began = self._spoke = time.perf_counter()
        self._first = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.progress is not None and self.train_progress_bar_id is None:
            done = trainer.fit_loop.total_batch_idx + 1
            self.train_progress_bar_id = self.progress.add_task(
                "training", total=self.total_train_batches, completed=done
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.fit_loop.total_batch_idx)
        now = time.perf_counter()
        if self._lines and now - self._spoke > PAUSE:
            self._spoke = now
            self._say(trainer, self.line(trainer, pl_module, seconds=now - self._began))

    def on_validation_batch_end(self, trainer: pl.Trainer, *rest: Any, **named: Any) -> None:
        super().on_validation_batch_end(trainer, *rest, **named)
        self._still(trainer, f"step {trainer.global_step} of {trainer.max_steps}: validating")

    def on_test_batch_end(self, trainer: pl.Trainer, *rest: Any, **named: Any) -> None:
        super().on_test_batch_end(trainer, *rest, **named)
        self._still(trainer, "testing")

    def _still(self, trainer: pl.Trainer, text: str) -> None:
        if self._lines and time.perf_counter() - self._spoke > PAUSE:
            self._spoke = time.perf_counter()
            self._say(trainer, f"{text}.")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._say(trainer, "Testing.")

    def _say(self, trainer: pl.Trainer, text: str) -> None:
        if self._lines and trainer.is_global_zero:
            Console(stderr=True).print(text, soft_wrap=True, highlight=False, markup=False)

    def line(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, seconds: float) -> str:
        """`step 120 of 600: loss 4.310, 1:20 left`, by the pace of these seconds."""
        done, steps = trainer.global_step, trainer.max_steps
        shown = [f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items()]
        if steps > 0 and done > self._first:
            shown.append(f"{clock(seconds / (done - self._first) * (steps - done))} left")
        return f"step {done} of {steps}: {', '.join(shown)}"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return {
            SHORT.get(name, name.split("/")[-1]): f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
            for name, value in shown.items()
        }
