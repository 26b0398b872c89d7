"""What of an S-VCO config costs nothing to make, and what stands in for models (`runtime/preflight/building.py`)."""

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig

from datamodules.scenes.datamodule import PairsDataModule, SceneSource
from datamodules.scenes.emoji_source import EmojiSource
from datamodules.scenes.file_source import MVCSource
from lightning_modules.common.choices import check_choice, nearest
from lightning_modules.runtime.preflight.building import named
from lightning_modules.svco.benchmarks import Benchmarks
from lightning_modules.svco.evaluation import JUDGED_ON
from lightning_modules.svco.filtering import Filtering
from lightning_modules.svco.loading import DTYPES, places, quantized
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.mvc.build import BuildMVC
from lightning_modules.svco.mvc.candidates import EmojiCandidates, SceneCandidates
from lightning_modules.svco.mvc.filters import EmbeddedSimilarity, ModelSimilarity, StructuralSimilarity
from lightning_modules.svco.mvc.rewriting import LanguageModel, Templates
from lightning_modules.svco.studies import Base, Compare, Dependency
from lightning_modules.svco.tradeoff import Tradeoff


def choices_are_known(cfg: DictConfig) -> Iterator[str]:
    evaluation = cfg.callbacks.get("scene_evaluation")
    given = {"callbacks.scene_evaluation": evaluation, "study": cfg.study}
    for key, node in given.items():
        word = node.get("judged_on") if node else None
        if word is not None and word not in JUDGED_ON:
            yield f"{key}.judged_on is {word!r}; expected one of {', '.join(JUDGED_ON)}{nearest(word, list(JUDGED_ON))}."


CHECKS = (choices_are_known,)


class NotLoaded:
    """Stands in for a model that has not been loaded or made."""

    adapted = False

    def eval(self) -> "NotLoaded":
        return self

    def fingerprint(self) -> str:
        return ""


def embedded(*, dtype: str = "float32", **_: Any) -> NotLoaded:
    check_choice("model.dtype", dtype, DTYPES)
    return NotLoaded()


def of_the_user(*, path: str, local_files_only: bool = True, dtype: str = "float32", **given: Any) -> NotLoaded:
    """As `load_vlm` refuses, without its weights."""
    places(path, local_files_only=local_files_only)
    check_choice("model.dtype", dtype, DTYPES)
    quantized(given.get("quantize"), given.get("lora_rank", 0))
    return NotLoaded()


BUILDS: dict[str, Callable[..., Any]] = {
    "datamodules.scenes.PairsDataModule": PairsDataModule,
    "datamodules.scenes.SceneSource": SceneSource,
    "datamodules.scenes.MVCSource": MVCSource,
    "datamodules.scenes.EmojiSource": EmojiSource,
    "lightning_modules.svco.pretrained_vlm": embedded,
    "lightning_modules.svco.emoji_vlm": embedded,
    "lightning_modules.svco.load_vlm": of_the_user,
    "lightning_modules.svco.Objective": Objective,
    **named(Base, Compare, Dependency, Tradeoff, Filtering, Benchmarks, BuildMVC, SceneCandidates, EmojiCandidates),
    **named(EmbeddedSimilarity, StructuralSimilarity, ModelSimilarity, Templates, LanguageModel),
}
