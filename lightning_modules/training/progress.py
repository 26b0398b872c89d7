"""The progress bar: optimizer-relevant numbers under short names, so that a line of a terminal holds them."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme

from lightning_modules.common import metric_names as names

SHORT = {names.TRAIN_TOKENS_PER_SECOND: "tok/s"}


class Progress(RichProgressBar):
    """Lightning's rich bar with the metrics logged for it: `loss 4.31 · lbl 1.02 · tok/s 8,120`."""

    def __init__(self, *, refresh_rate: int = 5) -> None:
        theme = RichProgressBarTheme(metrics_text_delimiter=" · ", metrics_format=".3f")
        super().__init__(refresh_rate=refresh_rate, theme=theme)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return {
            SHORT.get(name, name.split("/")[-1]): f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
            for name, value in shown.items()
        }

    def _get_train_description(self, current_epoch: int) -> str:
        # A run is counted in optimizer steps, so the number of epochs says nothing.
        return f"epoch {current_epoch}   "
