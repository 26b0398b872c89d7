"""Callbacks measure, synchronise or save; none of them holds a loss."""

from lightning_modules.callbacks.aux_free_bias import AuxFreeBias
from lightning_modules.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.callbacks.finite_loss import FiniteLoss, NonFiniteLoss
from lightning_modules.callbacks.held_out import HeldOutEvaluation
from lightning_modules.callbacks.moe_figures import MoEFigures
from lightning_modules.callbacks.routing_metrics import RoutingMetrics
from lightning_modules.callbacks.throughput import Throughput
from lightning_modules.callbacks.zero_shot import ZeroShotChoice

__all__ = [
    "AuxFreeBias",
    "ExpertFrequencySync",
    "FiniteLoss",
    "HeldOutEvaluation",
    "MoEFigures",
    "NonFiniteLoss",
    "RoutingMetrics",
    "Throughput",
    "ZeroShotChoice",
]
