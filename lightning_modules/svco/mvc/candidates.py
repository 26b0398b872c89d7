"""Candidate pairs for MVC: two pictures, a caption of each, and what is said to differ between them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from datamodules.scenes import emoji, language
from datamodules.scenes.emoji_source import caption, on_white
from datamodules.scenes.pairs import generator
from datamodules.scenes.render import render
from datamodules.scenes.world import CATEGORIES, contrast, draw_scene
from lightning_modules.common.bounds import Count, Share, Whole


class Candidate(NamedTuple):
    """`flip`: left-right flips are exempt from the filter, as in the paper (section 4)."""

    name: str
    one: Image.Image
    other: Image.Image
    caption_one: str
    caption_other: str
    category: str
    flip: bool = False


class SceneCandidates:
    """Minimal contrasts of rendered scenes, and for a share `unrelated` two scenes that have nothing in common."""

    def __init__(self, *, count: Count = 600, unrelated: Share = 0.25, pixels: Count = 48, seed: Whole = 0) -> None:
        self.count, self.unrelated, self.pixels, self.seed = count, unrelated, pixels, seed

    def prepare(self) -> None:
        """Nothing to fetch."""

    def description(self) -> dict[str, Any]:
        settings = {"count": self.count, "unrelated": self.unrelated, "pixels": self.pixels, "seed": self.seed}
        return {"candidates": "scenes", **settings}

    def __len__(self) -> int:
        return self.count

    def part(self, start: int, stop: int) -> Iterator[Candidate]:
        """Candidates `start` to `stop`; each has a random stream of its own, so parts can be made in any order."""
        for number in range(start, min(stop, self.count)):
            draw = generator(self.seed * 1_000_003 + number, "train")
            one, other = draw_scene(draw, prior=0.0), draw_scene(draw, prior=0.0)
            category = tuple(CATEGORIES)[number % len(CATEGORIES)]
            unrelated = draw.random() < self.unrelated
            if not unrelated:
                other = contrast(one, category=category, draw=draw)
            yield Candidate(
                name=f"scene-{number:06d}",
                one=render(one, pixels=self.pixels),
                other=render(other, pixels=self.pixels),
                caption_one=language.caption(one, phrasing=number),
                caption_other=language.caption(other, phrasing=number),
                category="unrelated" if unrelated else category,
                flip=category == "position" and not unrelated,
            )


class EmojiCandidates:
    """Emoji whose names differ in one word; pictures from a registry package (`datamodules.scenes.emoji`).

    Args:
        archive: the package's file where npm cannot fetch it. most: of one category, evenly spread.
    """

    def __init__(self, *, cache_dir: str, archive: str | None = None, most: Count = 400) -> None:
        self.cache, self.archive, self.most = Path(cache_dir), Path(archive).expanduser() if archive else None, most
        self._pairs: list[Any] = []

    def prepare(self) -> None:
        if not self._pairs:
            grouped: dict[str, list[Any]] = {}
            for pair in emoji.contrasts(emoji.emojis(self.cache, archive=self.archive)):
                grouped.setdefault(pair[2], []).append(pair)
            for group in grouped.values():
                step = max(1, -(-len(group) // self.most))
                self._pairs += islice(group, 0, None, step)

    def description(self) -> dict[str, Any]:
        return {"candidates": "emoji", "sha256": emoji.PACKAGE.sha256, "most": self.most}

    def __len__(self) -> int:
        return len(self._pairs)

    def part(self, start: int, stop: int) -> Iterator[Candidate]:
        for number, (one, other, category) in enumerate(self._pairs[start:stop], start=start):
            yield Candidate(
                name=f"emoji-{number:06d}",
                one=on_white(one.image),
                other=on_white(other.image),
                caption_one=caption(one),
                caption_other=caption(other),
                category=category,
                flip=category == "position",
            )
