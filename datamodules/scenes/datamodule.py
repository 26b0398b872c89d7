"""Contrasting pairs as a LightningDataModule, in the exact order of `datamodules.order`.

A batch is a list of `Encoded` pairs with their numbers: rows of different lengths are packed where they are used.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.utils.data import DataLoader

from datamodules.intake import Intake
from datamodules.order import ORDER_VERSION
from datamodules.ordered import Batches, OrderedDataModule, same
from datamodules.scenes import mvc
from datamodules.scenes.pairs import ScenePair, scene_pairs
from datamodules.scenes.reader import Encoded, Reader
from lightning_modules.common.bounds import Count, Share, Whole
from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.common.say import say


class Source(Protocol):
    """Where pairs come from: `description()` names it, each of `pairs(split)` has `images(pixels)`.

    name: for people. scenes: whether toy scenes judge what learns from it.
    """

    name: str
    scenes: bool

    def description(self) -> dict[str, Any]: ...

    def pairs(self, split: str) -> list[Any]: ...


class SceneSource:
    """Rendered scenes (`datamodules.scenes.pairs`); `prior` 0 draws every attribute uniformly.

    Args:
        describe: share of the questions that ask for a whole description.
        unrelated: share of the training pairs whose scenes have nothing to do with each other.
        counts: pairs of train, validation and test.
    """

    name, scenes = "rendered scenes", True

    def __init__(
        self,
        *,
        train: Count = 960,
        val: Count = 120,
        test: Count = 240,
        prior: Share = 0.0,
        describe: Share = 0.5,
        unrelated: Share = 0.0,
        seed: Whole = 0,
    ) -> None:
        self.counts = {"train": train, "val": val, "test": test}
        self.settings: dict[str, Any] = {"prior": prior, "describe": describe, "seed": seed}
        # In training only, and no part of the description where there are none.
        self.unrelated: dict[str, Any] = {"unrelated": unrelated} if unrelated else {}

    def description(self) -> dict[str, Any]:
        return {"source": "scenes", **self.counts, **self.settings, **self.unrelated}

    def pairs(self, split: str) -> list[ScenePair]:
        more = self.unrelated if split == "train" else {}
        return scene_pairs(count=self.counts[split], split=split, **self.settings, **more)


class MVCSource:
    """An MVC file, the paper's `mvc.json` or one of ours. Held-out pairs are drawn, and no picture is in two splits.

    Args:
        file: JSON list or JSON lines. images: what relative image paths count from, by default the file's folder.
        val, test: most pairs held out (240 for validation in the paper); pairs that share a picture go together.
        skip_bad: leave malformed records out. seed: of the draw.
    """

    scenes = False

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
        self.file, self.held_out = Path(file), {"val": val, "test": test}
        self.images, self.skip_bad, self.pixel_limit = Path(images) if images else None, skip_bad, pixel_limit

    @cached_property
    def all(self) -> list[mvc.Pair]:
        pairs, bad = mvc.read(self.file, images=self.images, skip_bad=self.skip_bad, pixel_limit=self.pixel_limit)
        self.intake.read = len(pairs) + len(bad)
        for message in bad:
            field = re.search(r"fields? ('\w+')", message)
            self.intake.leave(f"malformed in {field[1]}" if field else "malformed")
        if bad:
            self.intake.warnings.append(f"the first record left out is {bad[0]}")
        return pairs

    @cached_property
    def pictures(self) -> dict[Path, str]:
        """The checksum of every picture."""
        return {path: sha256(path) for pair in self.all for path in (pair.chosen_image, pair.rejected_image)}

    @cached_property
    def splits(self) -> dict[str, list[mvc.Pair]]:
        """Pairs that a chain of shared pictures connects are drawn together; ValueError where nothing is left to train."""
        ones, others = ([self.pictures[getattr(p, f"{s}_image")] for p in self.all] for s in ("chosen", "rejected"))
        number = {sum_: n for n, sum_ in enumerate(dict.fromkeys([*ones, *others]))}
        ends = [[number[sum_] for sum_ in sums] for sums in (ones, others)]
        links = coo_matrix((np.ones(len(ones)), tuple(ends)), shape=(len(number),) * 2)
        group = connected_components(links, directed=False)[1][ends[0]]
        found: dict[str, list[mvc.Pair]] = {"test": [], "val": [], "train": []}
        together: dict[int, list[mvc.Pair]] = {}
        for pair, mine in zip(self.all, group.tolist(), strict=True):
            together.setdefault(mine, []).append(pair)
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
        for pair in self.all:
            one, other = (self.pictures[path] for path in (pair.chosen_image, pair.rejected_image))
            count += (pair.instruction, one, other, pair.rejected, pair.chosen) in said
            count += (pair.instruction, other, one, pair.chosen, pair.rejected) in said
            said.add((pair.instruction, one, other, pair.chosen, pair.rejected))
        return count

    def description(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {"source": "mvc", "sha256": "missing", **self.held_out}
        pictures = digest(sorted(self.pictures.values()))
        return {"source": "mvc", "sha256": sha256(self.file), "pictures": pictures, **self.held_out, "seed": self.seed}

    def pairs(self, split: str) -> list[mvc.Pair]:
        return self.splits[split]


class Numbered(NamedTuple):
    """A batch: numbers of the pairs in their split, and the pairs."""

    numbers: list[int]
    pairs: list[Encoded]


class EncodedPairs(Batches):
    """Pairs as `reader` reads them; kept once read when `keep` (small images)."""

    def __init__(self, pairs: list[Any], reader: Reader, *, pixels: int, keep: bool) -> None:
        self.pairs, self.reader, self.pixels, self.sizes = pairs, reader, pixels, [len(pairs)]
        self._kept: dict[int, Encoded] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> Encoded:
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        pair = self.pairs[number]
        found = self.reader.encode(pair, pair.images(self.pixels))
        if self._kept is not None:
            self._kept[number] = found
        return found

    def __getitems__(self, numbers: list[int]) -> Numbered:
        return Numbered(list(numbers), [self[n] for n in numbers])


class PairsDataModule(OrderedDataModule):
    """Args:
    source: `SceneSource` or `MVCSource`.
    global_batch: pairs of one optimizer step over ranks and accumulation; eval_batch: of one forward of validation.
    pixels: side of a rendered scene. keep: keep encoded pairs in memory.
    """

    def __init__(
        self,
        *,
        source: Source,
        global_batch: Count = 16,
        micro_batch: Count = 1,
        eval_batch: Count = 32,
        pixels: Count = 48,
        keep: bool = True,
        seed: Whole = 0,
        workers: Whole = 0,
    ) -> None:
        super().__init__()
        self.source, self.global_batch, self.micro_batch = source, global_batch, micro_batch
        self.eval_batch, self.pixels, self.keep = eval_batch, pixels, keep
        self.seed, self.workers = seed, workers
        self._splits: dict[str, EncodedPairs] = {}

    def prepare_data(self) -> None:
        self.source.pairs("train")
        if isinstance(self.source, MVCSource):
            self.source.intake.tell()

    def split(self, name: str) -> EncodedPairs:
        """The pairs of a split as the model in training reads them."""
        if name not in self._splits:
            assert self.trainer is not None
            model: Any = self.trainer.lightning_module
            self._splits[name] = EncodedPairs(
                self.source.pairs(name), model.vlm.reader, pixels=self.pixels, keep=self.keep
            )
        return self._splits[name]

    @property
    def training(self) -> EncodedPairs:
        return self.split("train")

    def val_dataloader(self) -> DataLoader:
        return self._held_out("val")

    def test_dataloader(self) -> DataLoader:
        return self._held_out("test")

    def _held_out(self, name: str) -> DataLoader:
        size, trainer = len(self.split(name)), self.trainer
        assert trainer is not None
        mine = range(trainer.global_rank, size, trainer.world_size)
        return DataLoader(
            self.split(name),
            batch_sampler=[list(mine[i : i + self.eval_batch]) for i in range(0, len(mine), self.eval_batch)],
            collate_fn=same,
            num_workers=self.workers,
            # An iterator draws its seed when it starts, and nothing else must notice.
            generator=torch.Generator().manual_seed(self.seed),
        )

    @property
    def tokens_per_step(self) -> int:
        """About: six sequences a pair, of some twenty response tokens and the image's patches."""
        return self.global_batch * 6 * (20 + (self.pixels // 8) ** 2)

    def fingerprint(self) -> dict[str, str]:
        order = [ORDER_VERSION, self.seed, self.global_batch]
        return {"data": digest(self.source.description()), "order": digest(order)}

    def datasheet(self) -> list[dict[str, Any]]:
        """Pairs per split and category."""
        rows: dict[tuple[str, str], int] = {}
        for name in ("train", "val", "test"):
            for pair in self.source.pairs(name):
                rows[name, pair.category] = rows.get((name, pair.category), 0) + 1
        return [{"split": s, "category": c, "pairs": n} for (s, c), n in rows.items()]
