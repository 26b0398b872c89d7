"""Does the MVC filter earn its keep (section 4 of Wu et al.)? The same objective on filtered and on unfiltered pairs."""

from typing import Any

from datamodules.scenes.datamodule import Source
from lightning_modules.common.bounds import Count
from lightning_modules.common.making import Thing, watcher
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.arms import Arms
from lightning_modules.svco.mvc.filters import Filter, Similarity

FILTER_SHOWN = {"svco/paired_all": "paired", "svco/hallucination_rate": "hallucination"}


class Sieved:
    """The first `count` training pairs of a source, of those that the filter `sieve` keeps or, without one, of all.

    ValueError when the filter keeps fewer than `count`.
    """

    def __init__(self, source: Source, *, count: int, sieve: Filter | None, pixels: int) -> None:
        self.source, self.count, self.sieve, self.pixels = source, count, sieve, pixels
        self.name, self.scenes = source.name, source.scenes

    def description(self) -> dict[str, Any]:
        told = {"source": "sieved", "of": self.source.description(), "count": self.count}
        return told | (self.sieve.description() if self.sieve else {})

    def pairs(self, split: str) -> list[Any]:
        kept = found = self.source.pairs(split)
        if split != "train":
            return found
        if self.sieve:
            ones, others = zip(*(pair.images(self.pixels) for pair in found), strict=True)
            verdicts = self.sieve(ones, others, [pair.category == "position" for pair in found])
            kept = [p for p, (*_, verdict) in zip(found, verdicts, strict=True) if verdict.startswith("kept")]
        # A plan's model is hardly trained, and so is what it keeps.
        if len(kept) < self.count and watcher().cap is None:
            raise ValueError(
                f"the filter keeps {len(kept)} of {len(found)} pairs, study.pairs is {self.count}; raise "
                "data.source.train or loosen study.above and study.below."
            )
        return kept[: self.count]


class Filtering(Arms):
    """Equally many pairs from one pool, with the filter and without.

    Args:
        pairs: that either arm trains on. semantic, visual, above, below: the filter's, as in `BuildMVC`.
        shared: of every study; `source` is the pool, with a share of unrelated pairs.
    """

    def __init__(
        self, *, pairs: Count, semantic: Similarity, visual: Similarity, above: float, below: float, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.pairs, self.filter = pairs, Filter(semantic, visual, above, below)

    def sources(self) -> dict[str, Sieved]:
        pool, pixels = self.settings.source, self.settings.pixels
        arms = {"filtered": self.filter, "unfiltered": None}
        return {arm: Sieved(pool, count=self.pairs, sieve=sieve, pixels=pixels) for arm, sieve in arms.items()}

    def needs(self) -> list[Thing]:
        return [t for source in self.sources().values() for t in self.arms(self.settings._replace(source=source))]

    def run(self, desk: Desk) -> dict[str, float]:
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for arm, source in self.sources().items():
            train = source.pairs("train")
            foreign = sum(pair.category == "unrelated" for pair in train) / len(train)
            for name in self.objectives:
                chosen = self.chosen(name, desk, source=source)
                found = self.measured(chosen.vlm).metrics
                row = {"pairs": arm, "objective": name, "unrelated": foreign, "lr": f"{chosen.lr:.0e}"}
                shown = {m: w for m, w in FILTER_SHOWN.items() if m in found}
                rows.append({**row, **{word: found[metric] for metric, word in shown.items()}})
                metrics |= {f"{metric}_{name}_{arm}": found[metric] for metric in shown}
            metrics[f"svco/unrelated_{arm}"] = foreign
        desk.table("filtering", rows)
        return metrics
