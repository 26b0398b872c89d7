"""The few OmegaConf resolvers that the config tree uses."""

from pathlib import Path

from omegaconf import OmegaConf

from lightning_modules.common.digests import number_of


def register_resolvers(*, project: Path) -> None:
    """`${project:PATH}` is a path under the checkout; `${digest:TEXT}` eight hex digits of its SHA-256;
    `${gpu_precision:}` the widest mixed precision that the GPU has."""
    OmegaConf.register_new_resolver("project", lambda path="": str(project / path), replace=True)
    OmegaConf.register_new_resolver("digest", digest, replace=True)
    OmegaConf.register_new_resolver("gpu_precision", _gpu_precision, replace=True)


def digest(text: object) -> str:
    return f"{number_of(str(text), size=4):08x}"


def _gpu_precision() -> str:
    import torch

    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "16-mixed"
