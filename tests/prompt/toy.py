"""A language and backbones small enough for a test."""

from pathlib import Path
from typing import Any

from datamodules.tasks import Language
from lightning_modules.prompt.backbones import LanguageBackbone
from lightning_modules.prompt.prompts import Prompts

TUNING = {"steps": 4, "batch": 8, "lr": 0.01, "warmup_steps": 0, "min_lr_ratio": 1.0, "weight_decay": 0.0}


def language(**settings: Any) -> Language:
    return Language(**{"train": 48, "val": 32, "test": 40} | settings)


def spec(cache: Path, **settings: Any) -> LanguageBackbone:
    """Random weights: what is tested here does not depend on what the model knows."""
    small = dict(hidden_size=16, layers=2, heads=2, ffn=24, max_positions=64, random_init=True)
    return LanguageBackbone(language=language(), cache=str(cache), **small | settings)


def prompts(cache: Path, **settings: Any) -> Prompts:
    shared = dict(source=language(), tuning=TUNING, cache=str(cache), length=4)
    return Prompts(backbone=settings.pop("backbone", None) or spec(cache), **shared | settings)
