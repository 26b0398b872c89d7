"""Mixture-of-experts language models and their load-balancing loss at any scope."""

from lightning_modules.common import lazy

__getattr__ = lazy.names(__name__, {"MoELM": "module", "build_moe": "models", "pretrained_moe": "pretrained"})
