"""Emoji in contrasting pairs, as a source of `PairsDataModule`: real pictures, none of them in two splits.

Pictures that a chain of contrasts connects go to one split together, and so do all pictures of one figure: a contrast ties
neither the figure without a skin tone to its five tones nor one that faces right to its mirror image.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.scenes.emoji import PACKAGE, Emoji, contrasts, emojis
from datamodules.scenes.groups import groups
from lightning_modules.common.bounds import Count
from lightning_modules.common.digests import number_of

QUESTION = "describe the picture ."
# Of a hundred groups of connected pictures: the rest is for training.
TEST, VAL = 25, 10
# Raised when the same settings give other pairs or splits.
VERSION = 2


@dataclass(frozen=True)
class EmojiPair:
    """Two emoji that differ in one word of their names; each answers the question with its name."""

    chosen_emoji: Emoji
    rejected_emoji: Emoji
    chosen: str
    rejected: str
    category: str
    instruction: str = QUESTION
    system: str = ""

    def images(self, pixels: int) -> tuple[Image.Image, Image.Image]:
        return picture(self.chosen_emoji, pixels), picture(self.rejected_emoji, pixels)


def caption(emoji: Emoji) -> str:
    return f"a picture of {emoji.name} ."


def figure(emoji: Emoji) -> str:
    """`man walking` of `man walking facing right in a dark skin tone`."""
    return emoji.name.partition(" in a ")[0].removesuffix(" facing right")


def picture(emoji: Emoji, pixels: int) -> Image.Image:
    return on_white(emoji.image).resize((pixels, pixels), Image.Resampling.BILINEAR)


def on_white(path: Path) -> Image.Image:
    """Emoji are transparent; on black, dark ones would vanish."""
    with Image.open(path) as image:
        found = image.convert("RGBA")
    ground = Image.new("RGBA", found.size, "white")
    return Image.alpha_composite(ground, found).convert("RGB")


class EmojiSource:
    """Pairs of each category, at most `most` of one in a split.

    Args:
        archive: the package's file where npm cannot fetch it.
    """

    name, scenes = "emoji", False

    def __init__(self, *, cache_dir: str, archive: str | None = None, most: Count = 300) -> None:
        self.cache, self.archive, self.most = Path(cache_dir), Path(archive).expanduser() if archive else None, most

    def description(self) -> dict[str, Any]:
        settings = {"most": self.most, "test": TEST, "val": VAL, "version": VERSION}
        return {"source": "emoji", "sha256": PACKAGE.sha256, **settings}

    @cached_property
    def contrasts(self) -> list[tuple[Emoji, Emoji, str]]:
        return list(contrasts(emojis(self.cache, archive=self.archive)))

    @cached_property
    def splits(self) -> dict[Path, str]:
        """The split of every picture that has a contrast."""
        shown = {e.image: figure(e) for one, other, _ in self.contrasts for e in (one, other)}
        one_of = {own: path for path, own in shown.items()}
        contrasted = [(one.image, other.image) for one, other, _ in self.contrasts]
        group = groups([*contrasted, *((path, one_of[own]) for path, own in shown.items())])
        first = {group[path]: path.name for path in sorted(shown, reverse=True)}
        return {path: _split(first[group[path]]) for path in sorted(shown)}

    def pairs(self, split: str) -> list[EmojiPair]:
        """Which of the two is the chosen one is drawn by their names, so that no word is always right."""
        grouped: dict[str, list[EmojiPair]] = {}
        for one, other, category in self.contrasts:
            # Some families were drawn once for several names: neither answer would be the right one.
            if self.splits[one.image] == split and one.image.read_bytes() != other.image.read_bytes():
                chosen, rejected = (one, other) if number_of(f"{one.name} / {other.name}", size=4) % 2 else (other, one)
                pair = EmojiPair(chosen, rejected, caption(chosen), caption(rejected), category)
                grouped.setdefault(category, []).append(pair)
        # A draw, not every n-th: contrasts come in a rhythm of figure and tone, and a step would fall in with it.
        for group in grouped.values():
            group.sort(key=lambda p: number_of(f"{p.chosen} {p.rejected}", size=4))
        return [pair for group in grouped.values() for pair in group[: self.most]]

    def pictures(self, split: str) -> list[Emoji]:
        by_path = {e.image: e for one, other, _ in self.contrasts for e in (one, other)}
        return [by_path[path] for path, own in self.splits.items() if own == split]

    def words(self) -> list[str]:
        return sorted({w for pair in self.contrasts for e in pair[:2] for w in caption(e).split()})


def _split(name: str) -> str:
    place = number_of(name, size=4) % 100
    return "test" if place < TEST else "val" if place < TEST + VAL else "train"
