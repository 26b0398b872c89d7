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
        from lightning_modules.moe import figures as draw
        from lightning_modules.moe import specialization as measure

        held_out = next(c for c in trainer.callbacks if isinstance(c, HeldOutEvaluation))
        training = next((c for c in trainer.callbacks if isinstance(c, RoutingMetrics)), None)
        tally, domains = held_out.tally, trainer.datamodule.domains
        common = {"domain_N": tally["domain_N"], "domains": len(domains)}
        share_DLE = measure.selection_share_DLE(counts_NLE=tally["counts_NLE"], **common)
        score_DL = measure.topk_score_DL(topk_score_NL=tally["topk_score_NL"], tokens_N=tally["tokens_N"], **common)
        figures = {
            "selection_heatmap": draw.selection_heatmap(share_DLE=share_DLE, domains=domains),
            "topk_score_sum": draw.topk_score_figure(
                score_DL=score_DL, domains=domains, floor=pl_module.tap.top_k / share_DLE.shape[-1]
            ),
            "coactivation": draw.coactivation_figure(pairs_LEE=tally["pairs_LEE"]),
        }
        if training is not None and training.loads:
            steps, loads = zip(*training.loads, strict=True)
            figures["load_over_training"] = draw.load_over_training(steps=steps, loads_SLE=loads)
            figures["lbl_scopes"] = draw.lbl_scopes_figure(history=training.scopes)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(self.folder / f"{name}.png")
