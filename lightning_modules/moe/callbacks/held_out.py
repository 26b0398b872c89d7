"""Perplexity per domain on validation text; on test text also what the experts specialise in, with figures."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules.common.bounds import Count
from lightning_modules.moe.held_out import DomainPerplexity, RoutingTally
from lightning_modules.moe.specialization import tested


class HeldOutEvaluation(pl.Callback):
    """Measures `val/ppl`, `val/ppl_DOMAIN`, and on the test split `test/...` and the specialisation summary.

    The tally of the test split is kept in `tally` (CPU tensors) and written to `<folder>/routing_test.pt`.
    """

    def __init__(self, *, folder: str, shuffles: Count = 100) -> None:
        self.folder, self.shuffles = Path(folder), shuffles
        self.tally: dict[str, torch.Tensor] | None = None

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._domains = trainer.datamodule.domains
        self._perplexity = DomainPerplexity(len(self._domains)).to(pl_module.device)
        self._routing = RoutingTally().to(pl_module.device)

    on_validation_epoch_start = on_test_epoch_start = _start

    def _read(self, trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._perplexity.update(outputs["nll_B"], outputs["tokens_B"], batch["domain"])
        if trainer.testing:
            self._routing.update(outputs["stats"], batch["domain"])

    on_validation_batch_end = on_test_batch_end = _read

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log_dict(self._perplexity.metrics("val", self._domains), prog_bar=False)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        perplexity = self._perplexity.metrics("test", self._domains)
        self.tally = self._routing.compute()
        pl_module.log_dict({**perplexity, **tested(self.tally, draws=self.shuffles)})
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save({"domains": self._domains, **self.tally}, self.folder / "routing_test.pt")
