"""Logs what the router does while it trains: bounded scalars, at the trainer's logging cadence.

Shape legend: L layers, M micro-batches, E experts.
"""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.common import metric_names as names
from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync, mean_tokens, pack
from lightning_modules.moe.losses import Frequency
from lightning_modules.moe.routing import RouterStats
from lightning_modules.moe.specialization import dead_experts, max_violation
from lightning_modules.training.cadence import logs_now

# Steps that a mean of what single batches scatter too much in is taken over.
RECENT = 100


class RoutingMetrics(pl.Callback):
    """LBL at sequence, micro and global scope whatever was trained, MaxVio, dead experts, entropy, balance BSZ.

    MaxVio of micro-batches is there for the step and as its mean over the logged ones of the last 100 steps.
    `loads` keeps the load of every expert, float [L, E], at each logged step, for the figure of load over training.
    """

    def __init__(self) -> None:
        self.loads: list[tuple[int, Tensor]] = []
        self.scopes: list[dict[str, float]] = []
        self.violations: list[tuple[int, float]] = []
        self._resumes = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._resumes = stage == "fit"

    def state_dict(self) -> dict[str, Any]:
        return {
            "loads": [list(pair) for pair in self.loads],
            "scopes": self.scopes,
            "violations": [list(pair) for pair in self.violations],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A test reads the best checkpoint, which training went on behind.
        if not self._resumes:
            return
        self.loads = [(step, load) for step, load in state_dict["loads"]]
        self.scopes = list(state_dict["scopes"])
        # A resume point from before it was counted has none.
        self.violations = [(step, value) for step, value in state_dict.get("violations", [])]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not logs_now(trainer, batch_idx):
            return
        sequences = batch["input_ids"].shape[0]
        stats = pl_module.last_routing
        by_sequence = stats.regrouped(sequences)
        micro = stats.regrouped(sequences // pl_module.micro_batch)
        whole, counts_LE = global_frequency(micro, trainer.world_size)
        scopes = {
            names.MOE_LBL_SEQUENCE: float(pl_module.lbl(by_sequence, by_sequence.frequency)),
            names.MOE_LBL_MICRO: float(pl_module.lbl(micro, micro.frequency)),
            names.MOE_LBL_GLOBAL: float(pl_module.lbl(micro, whole)),
        }
        # Counted in float64, which a device may lack.
        counts_LE, micro_counts_LME = counts_LE.cpu(), micro.frequency.counts_LME.cpu()
        probs_LTE = stats.probs_LTE.detach()
        entropy = -(probs_LTE * probs_LTE.clamp(min=1e-9).log()).sum(-1)[:, stats.valid_T].mean()
        sync = next((c for c in trainer.callbacks if isinstance(c, ExpertFrequencySync)), None)
        synced = sync.balance_blocks if sync is not None else 0
        balance_bsz = (synced or 1) * sequences // stats.blocks
        violation = float(max_violation(counts_LE=micro_counts_LME).mean())
        since = trainer.global_step - RECENT
        self.violations = [(s, v) for s, v in [*self.violations, (trainer.global_step, violation)] if s > since]
        pl_module.log_dict(
            {
                **scopes,
                names.MOE_BALANCE_BSZ: float(balance_bsz),
                names.MOE_MAXVIO_MICRO: violation,
                names.MOE_MAXVIO_MICRO_RECENT: sum(v for _, v in self.violations) / len(self.violations),
                names.MOE_MAXVIO_GLOBAL: float(max_violation(counts_LE=counts_LE).mean()),
                names.MOE_DEAD_EXPERTS: float(dead_experts(counts_LE=counts_LE)),
                names.MOE_ROUTING_ENTROPY: float(entropy),
                names.MOE_TOPK_SCORE_SUM: float(stats.selected_scores_LT()[:, stats.valid_T].mean()),
            }
        )
        self.scopes.append({"step": trainer.global_step, **scopes})
        load_LE = counts_LE.float() / counts_LE.sum(-1, keepdim=True).clamp(min=1)
        self.loads.append((trainer.global_step, load_LE))


def global_frequency(stats: RouterStats, ranks: int) -> tuple[Frequency, Tensor]:
    """(frequency every block would use under the mode `ranks`, counts int64 [L, E]) of this forward."""
    packed = pack(stats.frequency)
    if dist.is_available() and dist.is_initialized() and ranks > 1:
        dist.all_reduce(packed)
    counts_LE = packed[:, :-1]
    tokens_LM = mean_tokens(packed[:, -1], ranks * stats.blocks, stats)
    return Frequency(counts_LE[:, None].expand(-1, stats.blocks, -1), tokens_LM), counts_LE
