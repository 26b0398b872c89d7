"""Files of a user's own pairs as sources of `PairsDataModule`: drawn into splits that share no picture, and counted."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from datamodules.intake import Intake
from datamodules.scenes import mvc, preferences
from datamodules.scenes.groups import groups
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.common.say import say


class FileSource:
    """What such files have in common. Held-out pairs are drawn, and no picture is in two splits.

    Args:
        file: what is read. images: what relative image paths count from, by default the file's folder.
        val, test: most pairs held out (240 for validation in the paper); pairs that share a picture go together.
        skip_bad: leave malformed records out. seed: of the draw.
    """

    scenes = False
    # What `description` calls it, whether a record has one picture, not two, and what reads the file.
    kind, one_picture = "", False
    reader: ModuleType

    def __init__(
        self,
        *,
        file: str,
        images: str | None = None,
        val: Count = 240,
        test: Count = 240,
        skip_bad: bool = False,
        pixel_limit: Count = mvc.PIXEL_LIMIT,
        seed: Whole = 0,
    ) -> None:
        self.seed = seed
        self.name = file
        self.intake = Intake(file, unit="pair")
        self.file, self.held_out = Path(file).expanduser(), {"val": val, "test": test}
        self.images = Path(images).expanduser() if images else None
        self.skip_bad, self.pixel_limit = skip_bad, pixel_limit

    def shown(self, pair: Any) -> tuple[str, str]:
        """Checksums of the pictures of a pair, twice that of its only one."""
        raise NotImplementedError

    @cached_property
    def all(self) -> Sequence[Any]:
        settings = dict(images=self.images, skip_bad=self.skip_bad, pixel_limit=self.pixel_limit)
        pairs, bad = self.reader.read(self.file, **settings)
        self.intake.read = len(pairs) + len(bad)
        for message in bad:
            field = re.search(r"fields? ('\w+')", message)
            self.intake.leave(f"malformed in {field[1]}" if field else "malformed")
        if bad:
            self.intake.warnings.append(f"the first record left out is {bad[0]}")
        return pairs

    @cached_property
    def sums(self) -> list[tuple[str, str]]:
        """`shown` of every pair."""
        return [self.shown(pair) for pair in self.all]

    @cached_property
    def splits(self) -> dict[str, list[Any]]:
        """Pairs that a chain of shared pictures connects are drawn together; ValueError where nothing is left to train."""
        group = groups(self.sums)
        found: dict[str, list[Any]] = {"test": [], "val": [], "train": []}
        together: dict[int, list[Any]] = {}
        for pair, (one, _) in zip(self.all, self.sums, strict=True):
            together.setdefault(group[one], []).append(pair)
        for drawn in np.random.default_rng(self.seed).permutation(sorted(together)).tolist():
            own = together[drawn]
            fits = (name for name, most in self.held_out.items() if len(found[name]) + len(own) <= most)
            found[next(fits, "train")] += own
        sizes = ", ".join(f"{len(found[name])} {name}" for name in ("train", "val", "test"))
        if not all(found.values()):
            raise ValueError(
                f"{self.file} holds {len(self.all)} pairs, which make {sizes}: pairs that share a picture stay together; "
                f"expected some in each, with data.source.val and data.source.test, which are {self.held_out}, smaller."
            )
        say(f"{self.file}: {len(self.all)} pairs, {sizes}.")
        self.intake.taken_are({name: [pair.category for pair in found[name]] for name in ("train", "val", "test")})
        if contrary := self._contrary():
            self.intake.warnings.append(
                f"{contrary} pairs give two pictures the responses that another pair gives them the other way round. Decide "
                "which is right."
            )
        self.intake.warn_of_few_tests()
        return found

    def _contrary(self) -> int:
        """Pairs of which another says the opposite: to one question, of the same pictures."""
        said: set[tuple[str, ...]] = set()
        count = 0
        for pair, (one, other) in zip(self.all, self.sums, strict=True):
            about = {(pair.instruction, one, other, pair.rejected, pair.chosen)}
            about |= set() if one == other else {(pair.instruction, other, one, pair.chosen, pair.rejected)}
            count += len(about & said)
            said.add((pair.instruction, one, other, pair.chosen, pair.rejected))
        return count

    def description(self) -> dict[str, Any]:
        if not self.file.exists():
            return {"source": self.kind, "sha256": "missing", **self.held_out}
        # Pair by pair: the same pictures under each other's names are other pairs.
        return {
            "source": self.kind,
            **self.content(),
            "pictures": digest(self.sums),
            **self.held_out,
            "seed": self.seed,
        }

    def content(self) -> dict[str, str]:
        return {"sha256": sha256(self.file)}

    def contents(self, split: str) -> list[list[str]]:
        """Of each pair what a model reads: its texts, and checksums of its pictures."""
        return [[p.system, p.instruction, p.chosen, p.rejected, *self.shown(p)] for p in self.pairs(split)]

    def pairs(self, split: str) -> list[Any]:
        return self.splits[split]


class MVCSource(FileSource):
    """An MVC file, the paper's `mvc.json` or one of ours: a JSON list or JSON lines, two pictures a record."""

    kind, reader = "mvc", mvc

    @cached_property
    def pictures(self) -> dict[Path, str]:
        """The checksum of every picture."""
        return {path: sha256(path) for pair in self.all for path in (pair.chosen_image, pair.rejected_image)}

    def shown(self, pair: mvc.Pair) -> tuple[str, str]:
        return self.pictures[pair.chosen_image], self.pictures[pair.rejected_image]


class PreferenceSource(FileSource):
    """Preferences in TRL's format, one picture a row (`datamodules.scenes.preferences`): for objectives that need one."""

    kind, one_picture, reader = "preferences", True, preferences

    def shown(self, pair: preferences.Preference) -> tuple[str, str]:
        return pair.checksum, pair.checksum

    def content(self) -> dict[str, str]:
        texts = [[p.system, p.instruction, p.chosen, p.rejected, p.category] for p in self.all]
        return {"texts": digest(texts)}
