"""Mixture-of-experts language models and their load-balancing loss at any scope."""

from lightning_modules.moe.models import build_moe
from lightning_modules.moe.module import MoELM
from lightning_modules.moe.pretrained import pretrained_moe

__all__ = ["MoELM", "build_moe", "pretrained_moe"]
