"""Contrasting pairs as a LightningDataModule, in the exact order of `datamodules.order`.

A batch is a list of `Encoded` pairs with their numbers: rows of different lengths are packed where they are used.
"""

from collections.abc import Callable
from typing import Any, Protocol

from datamodules.order import ORDER_VERSION
from datamodules.ordered import OrderedDataModule
from datamodules.scenes.encodings import GIGABYTES, EncodedPairs, encoded, read_ahead
from datamodules.scenes.file_source import FileSource
from datamodules.scenes.pairs import ScenePair, scene_pairs
from lightning_modules.common.bounds import Count, Share, Weight, Whole
from lightning_modules.common.digests import digest


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


class PairsDataModule(OrderedDataModule[EncodedPairs]):
    """Args:
    source: `SceneSource`, `MVCSource` or `PreferenceSource`.
    global_batch: pairs of one optimizer step over ranks and accumulation; eval_batch: of one forward of validation.
    pixels: side of a rendered scene. keep: keep encoded pairs in memory.
    cache_dir: where those of a user's file are kept, encoded once, when they take at most `encoded_gb` gigabytes.
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
        cache_dir: str | None = None,
        encoded_gb: Weight = GIGABYTES,
    ) -> None:
        super().__init__()
        self.source, self.global_batch, self.micro_batch = source, global_batch, micro_batch
        self.eval_batch, self.pixels, self.keep = eval_batch, pixels, keep
        self.seed, self.workers, self.eval_workers = seed, workers, workers
        self.cache_dir, self.encoded_gb = cache_dir, encoded_gb
        self._end: Callable[[], None] | None = None

    def prepare_data(self) -> None:
        self.source.pairs("train")
        if isinstance(self.source, FileSource):
            self.source.intake.tell()

    def held_out_sizes(self) -> dict[str, int]:
        return {name: len(self.source.pairs(name)) for name in ("val", "test")}

    def setup(self, stage: str) -> None:
        """Encoding begins beside what comes before the first step, in the order in which it asks for pairs."""
        super().setup(stage)
        assert self.trainer is not None
        if stage == "fit" and self.cache_dir and self.trainer.is_global_zero:
            self._end = read_ahead([self.examples(name) for name in ("test", "train", "val")])

    def teardown(self, stage: str) -> None:
        if self._end:
            self._end()
            self._end = None

    def read(self, split: str) -> EncodedPairs:
        """The pairs of a split as the model in training reads them."""
        assert self.trainer is not None
        model: Any = self.trainer.lightning_module
        kept: dict[str, Any] = dict(keep=self.keep, cache_dir=self.cache_dir, gigabytes=self.encoded_gb)
        return encoded(self.source, split, model.vlm.reader, pixels=self.pixels, **kept)

    def tokens_per_step_of(self, module: Any) -> int:
        """About: as many as the first pair has where each of its prompts is followed by either response."""
        pair = EncodedPairs(self.source.pairs("train")[:1], module.vlm.reader, pixels=self.pixels)[0]
        prompts = [len(prompt) for prompt in (pair.prompt_w, pair.prompt_l, pair.prompt_n) if len(prompt)]
        responses = [len(pair.response_w), len(pair.response_l)]
        return self.global_batch * (len(responses) * sum(prompts) + len(prompts) * sum(responses))

    def fingerprint(self) -> dict[str, str]:
        order = [ORDER_VERSION, self.seed, self.global_batch]
        return {"data": digest(self.source.description()), "order": digest(order)}
