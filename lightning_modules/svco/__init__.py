"""S-VCO: fine-tuning a vision-language model to look at the picture (Wu et al., ACL 2025)."""

from typing import TYPE_CHECKING

from lightning_modules.common import lazy

if TYPE_CHECKING:
    from lightning_modules.svco.emoji_base import emoji_vlm
    from lightning_modules.svco.loading import load_vlm
    from lightning_modules.svco.losses import Objective
    from lightning_modules.svco.module import SVCO
    from lightning_modules.svco.pretraining import pretrained_vlm

__all__ = ["SVCO", "Objective", "emoji_vlm", "load_vlm", "pretrained_vlm"]

__getattr__ = lazy.names(
    __name__,
    {
        "Objective": "losses",
        "SVCO": "module",
        "emoji_vlm": "emoji_base",
        "load_vlm": "loading",
        "pretrained_vlm": "pretraining",
    },
)
