"""MVC's filter: keep pairs that are alike to one encoder and unlike to another, and say why the others go.

The paper keeps SigLIP similarity > 0.7 and DINOv2 similarity < 0.5: alike in meaning, unlike to the eye. Both may be any
transformers vision model by path; the stand-ins are the embedded model's vision tower and structural similarity.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import uniform_filter

from lightning_modules.common.bounds import Count
from lightning_modules.common.files import model_files
from lightning_modules.common.load import in_words, model_of
from lightning_modules.svco.models import VLM
from lightning_modules.training.inner import device


class Similarity(Protocol):
    """Of two pictures, at most 1; `description()` names what it follows from."""

    def description(self) -> dict[str, Any]: ...

    def __call__(self, ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray: ...


class EmbeddedSimilarity:
    """Cosine of the mean patch features of the embedded model's vision tower, the stand-in for SigLIP.

    Features are centred on those of a grey picture: untrained directions that all pictures share would dominate.
    """

    def __init__(self, *, model: VLM) -> None:
        self.vlm = model

    def description(self) -> dict[str, Any]:
        return {"similarity": "embedded", "weights": self.vlm.fingerprint()}

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        pixels = np.stack(self.vlm.reader.processor.image_processor(list(pictures))["pixel_values"])
        vlm = self.vlm.to(device())
        hidden = vlm.core.model.vision_tower(**vlm.placed({"pixel_values": torch.as_tensor(pixels)})).last_hidden_state
        return hidden[:, 1:].mean(1).cpu()

    def __call__(self, ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray:
        grey = self.features([Image.new("RGB", ones[0].size, (128, 128, 128))])
        return torch.cosine_similarity(self.features(ones) - grey, self.features(others) - grey).numpy()


class StructuralSimilarity:
    """Mean SSIM of the pictures in grey (Wang et al., 2004), windows of 7 pixels, the stand-in for DINOv2."""

    def __init__(self, *, window: Count = 7) -> None:
        self.window = window

    def description(self) -> dict[str, Any]:
        return {"similarity": "ssim", "window": self.window}

    def __call__(self, ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray:
        return np.array([self._pair(one, other) for one, other in zip(ones, others, strict=True)])

    def _pair(self, one: Image.Image, other: Image.Image) -> float:
        x, y = (np.asarray(im.convert("L"), dtype=np.float64) / 255 for im in (one, other.resize(one.size)))

        def mean(v: np.ndarray) -> np.ndarray:
            return uniform_filter(v, self.window)

        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        return float(found.mean())


class ModelSimilarity:
    """Cosine of the features of a transformers vision model by path: SigLIP, CLIP, DINOv2 or the like."""

    def __init__(self, *, path: str) -> None:
        path = os.path.expanduser(path)
        if not (Path(path) / "config.json").is_file():
            raise ValueError(
                f"{path}: no config.json there; a similarity's path is a folder written by save_pretrained."
            )
        self.path = path

    def description(self) -> dict[str, Any]:
        return {"similarity": "model", "files": model_files(Path(self.path))}

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModel

        # In float32 whatever it was saved in: similarities are held to thresholds, and pictures come in float32.
        model = model_of(
            AutoModel.from_pretrained, self.path, said=self.path, local_files_only=True, dtype=torch.float32
        )
        with in_words(self.path):
            processor = AutoImageProcessor.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)
        parts = model.eval().to(device()), processor
        draw = np.random.default_rng(0)
        picture = [Image.fromarray(draw.integers(256, size=(224, 224, 3), dtype=np.uint8))]
        once, again = self._features(picture, parts), self._features(picture, parts)
        if (once - again).norm() > 1e-5 * once.norm():
            raise ValueError(
                f"{self.path}: {type(model).__name__} gives one picture other features each time (a masked autoencoder "
                "hides patches at random); expected a model that reads the whole picture, such as SigLIP, CLIP or DINOv2."
            )
        return parts

    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        return self._features(pictures, self._parts)

    @staticmethod
    @torch.no_grad()
    def _features(pictures: Sequence[Image.Image], parts: tuple[Any, Any]) -> torch.Tensor:
        model, processor = parts
        inputs = processor(images=list(pictures), return_tensors="pt").to(model.device)
        if hasattr(model, "get_image_features"):
            found = model.get_image_features(**inputs)
            return getattr(found, "pooler_output", found).flatten(1).cpu()
        output = model(**inputs)
        pooled = getattr(output, "pooler_output", None)
        return (pooled if pooled is not None else output.last_hidden_state[:, 0]).flatten(1).cpu()

    def __call__(self, ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray:
        return torch.cosine_similarity(self.features(ones), self.features(others)).numpy()


class Filter(NamedTuple):
    """What is kept: pairs above `above` of the one similarity and below `below` of the other (`verdict`)."""

    semantic: Similarity
    visual: Similarity
    above: float
    below: float

    def description(self) -> dict[str, Any]:
        return {**self._asdict(), "semantic": self.semantic.description(), "visual": self.visual.description()}

    def __call__(
        self, ones: Sequence[Image.Image], others: Sequence[Image.Image], flips: Sequence[bool]
    ) -> list[tuple[float, float, str]]:
        """Of each pair its two similarities and the verdict."""
        alike, seen = (map(float, of(ones, others)) for of in (self.semantic, self.visual))
        return [
            (a, b, verdict(semantic=a, visual=b, flip=flip, above=self.above, below=self.below))
            for a, b, flip in zip(alike, seen, flips, strict=True)
        ]


def verdict(*, semantic: float, visual: float, flip: bool, above: float, below: float) -> str:
    """`kept`, `kept: flip`, or why the pair goes."""
    if flip:
        return "kept: flip"
    if not semantic > above:  # nor is what is no number
        return "not alike in meaning"
    return "kept" if visual < below else "too alike to the eye"
