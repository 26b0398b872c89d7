"""Compositional scenes with exact ground truth: what may be in one, how likely, and its minimal contrasts.

A scene is a place with one to three equal shapes on one side and another thing on the other side. Under the prior the
place all but decides the shape and the other thing, and the shape decides colour, size, material, count and side.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lightning_modules.common.bounds import Share
from lightning_modules.common.choices import check_choice

VALUES: dict[str, tuple] = {
    "place": ("meadow", "beach", "night", "room"),
    "shape": ("circle", "square", "triangle", "star"),
    "colour": ("red", "blue", "white", "purple"),
    "size": ("small", "large"),
    "material": ("plain", "striped"),
    "count": (1, 2, 3),
    "side": ("left", "right"),
    "other": ("ring", "cross", "bar", "heart"),
}
OBJECTS = VALUES["shape"] + VALUES["other"]
# What a contrast changes, by the paper's category.
CATEGORIES = {
    "object": "shape",
    "colour": "colour",
    "size": "size",
    "material": "material",
    "count": "count",
    "position": "side",
}
# (attribute, what decides it, how often the usual value is drawn)
PRIOR = (
    ("shape", "place", 0.97),
    ("other", "place", 0.95),
    ("colour", "shape", 0.97),
    ("count", "shape", 0.97),
    ("side", "shape", 0.97),
    ("size", "shape", 0.97),
    ("material", "shape", 0.97),
)


@dataclass(frozen=True)
class Scene:
    """One value of each attribute; `seed` moves the things by a few pixels and tints the place."""

    place: str
    shape: str
    colour: str
    size: str
    material: str
    count: int
    side: str
    other: str
    seed: int = 0

    @property
    def objects(self) -> frozenset[str]:
        return frozenset((self.shape, self.other))


def usual(attribute: str, decider: str) -> str | int:
    """The value that the prior pairs with `decider`, a place or a shape."""
    source = "place" if decider in VALUES["place"] else "shape"
    values = VALUES[attribute]
    return values[VALUES[source].index(decider) % len(values)]


def draw_scene(draw: np.random.Generator, *, prior: Share = 1.0) -> Scene:
    """A scene of which each attribute follows `PRIOR` with probability `prior`, else is uniform (0: unbiased)."""
    chosen: dict = {"place": VALUES["place"][draw.integers(4)]}
    for attribute, source, rate in PRIOR:
        # Always the same number of draws, so that two strengths of the prior differ in nothing else.
        follows, at_random = draw.random() < prior * rate, draw.integers(len(VALUES[attribute]))
        chosen[attribute] = usual(attribute, chosen[source]) if follows else VALUES[attribute][at_random]
    return Scene(**chosen, seed=int(draw.integers(2**31)))


def counterfactual(draw: np.random.Generator) -> tuple[Scene, str]:
    """A usual scene with one attribute that the prior would not give, and the category of that attribute."""
    category = tuple(CATEGORIES)[draw.integers(len(CATEGORIES))]
    place = VALUES["place"][draw.integers(4)]
    shape = str(usual("shape", place))
    chosen: dict[str, Any] = {
        attribute: usual(attribute, place if source == "place" else shape) for attribute, source, _ in PRIOR
    }
    scene = Scene(place=place, **chosen, seed=int(draw.integers(2**31)))
    return contrast(scene, category=category, draw=draw), category


def contrast(scene: Scene, *, category: str, draw: np.random.Generator) -> Scene:
    """`scene` with another value of the one attribute of `category`, everything else, jitter included, the same."""
    check_choice("a contrast's category", category, CATEGORIES)
    attribute = CATEGORIES[category]
    others = [value for value in VALUES[attribute] if value != getattr(scene, attribute)]
    return replace(scene, **{attribute: others[draw.integers(len(others))]})
