"""Writes the run's page once the test split has been read."""

from typing import Any

import pytorch_lightning as pl

from lightning_modules.look.callback import PageCallback
from lightning_modules.moe import look
from lightning_modules.moe.callbacks.held_out import HeldOutEvaluation
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics
from lightning_modules.moe.token_routing import TokenRouting


class LookPage(PageCallback):
    """From the forwards of the test split; on several ranks from the first one's share of the text."""

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._routing = TokenRouting()

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self.page and trainer.is_global_zero:
            self._routing.add(batch, outputs["stats"], domains=len(trainer.datamodule.domains))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.wants(trainer):
            return
        held_out = next(c for c in trainer.callbacks if isinstance(c, HeldOutEvaluation))
        assert held_out.tally is not None, "the test split was not read"
        training = next((c for c in trainer.callbacks if isinstance(c, RoutingMetrics)), None)
        found = look.experts_page(
            held=self._routing.held(),
            tally=held_out.tally,
            domains=trainer.datamodule.domains,
            tokenizer=trainer.datamodule.tokenizer,
            name=self.name,
            metrics={k: float(v) for k, v in trainer.callback_metrics.items()},
            loads=training.loads if training else (),
            text=self.text,
        )
        self.write(found, kind=look.KIND, title=look.TITLE)
