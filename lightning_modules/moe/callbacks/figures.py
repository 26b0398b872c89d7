"""Draws what the experts specialise in, once the test split has been read."""

from pathlib import Path

import pytorch_lightning as pl

from lightning_modules.moe.callbacks.held_out import HeldOutEvaluation
from lightning_modules.moe.callbacks.routing_metrics import RoutingMetrics


class MoEFigures(pl.Callback):
    """Writes PNGs under `folder` on rank 0; the runtime logs that folder as artifacts."""

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # matplotlib takes a second to import; only a run that gets here needs it.
        from lightning_modules.common.style import save
        from lightning_modules.moe import figures as draw

        held_out = next(c for c in trainer.callbacks if isinstance(c, HeldOutEvaluation))
        assert held_out.tally is not None, "the test split was not read"
        training = next((c for c in trainer.callbacks if isinstance(c, RoutingMetrics)), None)
        figures = draw.of_routing(tally=held_out.tally, domains=trainer.datamodule.domains, top_k=pl_module.tap.top_k)
        if training is not None and training.loads:
            steps, loads = zip(*training.loads, strict=True)
            figures["load_over_training"] = draw.load_over_training(steps=steps, loads_SLE=loads)
            figures["lbl_scopes"] = draw.lbl_scopes_figure(history=training.scopes)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save(figure, self.folder / f"{name}.png")
