"""Mixture-of-experts language models and their load-balancing loss at any scope."""

from typing import TYPE_CHECKING

from lightning_modules.common import lazy

if TYPE_CHECKING:
    from lightning_modules.moe.models import build_moe
    from lightning_modules.moe.module import MoELM
    from lightning_modules.moe.pretrained import pretrained_moe

__all__ = ["MoELM", "build_moe", "pretrained_moe"]

__getattr__ = lazy.names(__name__, {"MoELM": "module", "build_moe": "models", "pretrained_moe": "pretrained"})
