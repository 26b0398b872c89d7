"""Pictures nobody here made: emoji with their Unicode names, from a registry package, and their natural contrasts.

Two emoji whose names differ in one word of a kind (colour, gender, number, direction) are a minimal contrast; the same
figure in two skin tones is one too.
"""

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from datamodules.fetch import NodePackage, checked, fetch, member_bytes
from lightning_modules.common.made import made

# Twitter's art, CC-BY 4.0.
PACKAGE = NodePackage(
    "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
)
SLOTS = {
    "colour": "red orange yellow green blue purple brown black white",
    "gender": "man woman person boy girl men women",
    "count": "one two three four five six seven eight nine ten eleven twelve single double",
    "position": "left right up down leftwards rightwards upwards downwards upper lower left-facing right-facing",
}
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


class Emoji(NamedTuple):
    """A picture, its name in words (`woman running in a dark skin tone`) and the group it belongs to."""

    image: Path
    name: str
    group: str


def emojis(cache: Path, *, archive: Path | None = None) -> list[Emoji]:
    """Every picture of the package that has one, in the package's order; unpacked once under `cache`.

    archive: the package's file where npm cannot fetch it. ValueError when it is not there, or another one.
    """
    if archive and not archive.is_file():
        raise ValueError(f"study.candidates.archive={archive}: no such file; null fetches it with npm.")
    source = checked(archive, PACKAGE) if archive else fetch(PACKAGE, cache / "downloads")
    folder = made(
        folder=cache / "svco" / "emoji", key={"sha256": PACKAGE.sha256}, make=lambda place: unpack(source, place)
    )
    return list(listed(folder))


def unpack(archive: Path, folder: Path) -> None:
    """The 64-pixel pictures and emoji.json; nothing else is written, whatever paths the archive names."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            wanted = "/img/twitter/64/" in member.name or member.name == "package/emoji.json"
            if member.isfile() and wanted:
                (folder / name).write_bytes(member_bytes(tar, member))


def listed(folder: Path) -> Iterator[Emoji]:
    """The pictures that emoji.json names and `folder` holds."""
    for entry in json.loads((folder / "emoji.json").read_text()):
        words = entry["name"].lower().replace(":", " ").replace(",", " ").split()
        name, group = " ".join(words), entry["subcategory"]
        if (folder / entry["image"]).is_file():
            yield Emoji(folder / entry["image"], name, group)
        for code, variation in entry.get("skin_variations", {}).items():
            if code in TONES and (folder / variation["image"]).is_file():
                yield Emoji(folder / variation["image"], f"{name} in a {TONES[code]} skin tone", group)


def contrasts(found: list[Emoji]) -> Iterator[tuple[Emoji, Emoji, str]]:
    """(one, other, category) of every two emoji whose names differ in one word of a kind, in order."""
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[str, Emoji]]] = defaultdict(list)
    for emoji in found:
        words = emoji.name.split()
        for category, slot in SLOTS.items():
            for index, word in enumerate(words):
                if word in slot.split():
                    groups[category, (*words[:index], "*", *words[index + 1 :])].append((word, emoji))
        stem, _, tone = emoji.name.partition(" in a ")
        if tone:
            groups["skin tone", (stem,)].append((tone, emoji))
    for (category, _), members in groups.items():
        for (word, one), (another, other) in combinations(members, 2):
            if word != another:
                yield one, other, category
