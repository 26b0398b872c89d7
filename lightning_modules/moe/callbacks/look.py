"""Writes the run's page once the test split has been read."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_modules.look.page import LOOK, can_be_drawn, write
from lightning_modules.moe import look
from lightning_modules.moe.callbacks.held_out import HeldOutEvaluation
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics
from lightning_modules.moe.token_routing import TokenRouting


class LookPage(pl.Callback):
    """`<folder>/look.html`, from the forwards of the test split; on several ranks from the first one's share of the text.

    text: False keeps every word of the data out of it. name: how the page calls the run. page: False makes none.
    cache: where what every page needs is kept between runs.
    """

    def __init__(
        self, *, folder: str, name: str = "this run", text: bool = True, page: bool = True, cache: str | None = None
    ) -> None:
        self.folder, self.name, self.text, self.page = Path(folder), name, text, page
        self.cache = Path(cache) if cache else None

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._routing = TokenRouting()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Any],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.page and trainer.is_global_zero:
            self._routing.add(
                input_ids=batch["input_ids"],
                domain_B=batch["domain"],
                stats=outputs["stats"],
                domains=len(trainer.datamodule.domains),
            )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not (self.page and trainer.is_global_zero and can_be_drawn()):
            return
        held_out = next(c for c in trainer.callbacks if isinstance(c, HeldOutEvaluation))
        assert held_out.tally is not None, "the test split was not read"
        training = next((c for c in trainer.callbacks if isinstance(c, RoutingMetrics)), None)
        found = look.experts_page(
            held=self._routing.held(),
            counts_NLE=held_out.tally["counts_NLE"],
            domain_N=held_out.tally["domain_N"],
            domains=trainer.datamodule.domains,
            pieces=look.Pieces(trainer.datamodule.tokenizer),
            name=self.name,
            facts=look.facts({k: float(v) for k, v in trainer.callback_metrics.items()}),
            loads=training.loads if training else (),
            text=self.text,
        )
        write(self.folder / LOOK, kind=look.KIND, title=look.TITLE, data={"runs": [found]}, cache=self.cache)
