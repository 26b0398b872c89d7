"""S-VCO: fine-tuning a vision-language model to look at the picture (Wu et al., ACL 2025)."""

from lightning_modules.common import lazy

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
