"""Scenes as contrasting pairs, and as the training texts of the embedded model; all a function of a seed."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from datamodules.scenes import language
from datamodules.scenes.render import render
from datamodules.scenes.world import CATEGORIES, Scene, contrast, counterfactual, draw_scene

# Streams of the seed that never meet.
STREAMS = {"train": 1, "val": 2, "test": 3, "biased": 4, "unbiased": 5, "counterfactual": 6, "pretrain": 7, "vision": 8}


@dataclass(frozen=True)
class ScenePair:
    """Two scenes that differ in one attribute, a question, and what each answers."""

    chosen_scene: Scene
    rejected_scene: Scene
    instruction: str
    chosen: str
    rejected: str
    category: str
    system: str = ""

    def images(self, pixels: int) -> tuple[Image.Image, Image.Image]:
        return render(self.chosen_scene, pixels=pixels), render(self.rejected_scene, pixels=pixels)


def generator(seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, STREAMS[stream]])


def scene_pairs(
    *, count: int, seed: int, split: str, prior: float, describe: float, unrelated: float = 0.0
) -> list[ScenePair]:
    """`count` pairs, the categories in turn; a share `describe` of the questions asks for a whole description.

    The rest asks about the very attribute that differs. A share `unrelated` has two scenes that have nothing to do with
    each other, which is what a filter is there to find; their category is `unrelated`.
    """
    draw = generator(seed, split)
    found = []
    for number in range(count):
        category = tuple(CATEGORIES)[number % len(CATEGORIES)]
        one = draw_scene(draw, prior=prior)
        # Without a share of them nothing is drawn, and pairs stay what they were.
        foreign = bool(unrelated) and draw.random() < unrelated
        other = draw_scene(draw, prior=prior) if foreign else contrast(one, category=category, draw=draw)
        whole, form = draw.random() < describe, int(draw.integers(12))
        if whole:
            question = language.DESCRIBE[form % len(language.DESCRIBE)]
            texts = [language.caption(s, phrasing=form) for s in (one, other)]
        else:
            question = language.QUESTIONS[category][form % len(language.QUESTIONS[category])]
            texts = [language.answer(s, category=category, phrasing=form) for s in (one, other)]
        found.append(ScenePair(one, other, question, texts[0], texts[1], "unrelated" if foreign else category))
    return found


def scenes(*, count: int, seed: int, stream: str) -> list[Scene]:
    """Test scenes: `biased` follow the prior, `unbiased` do not, `counterfactual` break it in one attribute."""
    draw = generator(seed, stream)
    if stream == "counterfactual":
        return [counterfactual(draw)[0] for _ in range(count)]
    return [draw_scene(draw, prior=1.0 if stream == "biased" else 0.0) for _ in range(count)]


def training_text(scene: Scene, draw: np.random.Generator) -> tuple[str, str]:
    """(question, response) that the base model learns from: half captions, half questions about one thing."""
    if draw.random() < 0.5:
        question = language.DESCRIBE[draw.integers(len(language.DESCRIBE))]
        return question, language.caption(scene, phrasing=int(draw.integers(3)))
    return language.ask_about(scene, draw)
