"""S-VCO: fine-tuning a vision-language model to look at the picture (Wu et al., ACL 2025)."""

from lightning_modules.svco.losses import Objective

__all__ = ["Objective"]
