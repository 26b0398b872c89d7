"""MVC as one command: candidates, filter, rewording, an MVC file with its datasheet (section 4 of Wu et al.).

Candidates go through in parts; each part is kept by content, so a run that was killed goes on with the next one.
"""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.scenes import mvc, preferences
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.common.made import made, place_of
from lightning_modules.common.making import Thing, watcher
from lightning_modules.runtime.study import Desk
from lightning_modules.svco import figures as draw
from lightning_modules.svco.mvc.filters import Filter, Similarity
from lightning_modules.svco.mvc.rewriting import Rewriter, keeps_contrast

VERSION = 1


class BuildMVC:
    """Writes `mvc/mvc.json` and its images in the run's folder.

    Args:
        candidates: `SceneCandidates` or `EmojiCandidates`.
        semantic, visual: similarities; a pair is kept above `above` of the first and below `below` of the second.
        rewriter: `Templates` or `LanguageModel`.
        part: candidates of one part. workers: processes side by side; 1: this one.
    """

    def __init__(
        self,
        *,
        candidates: Any,
        semantic: Similarity,
        visual: Similarity,
        rewriter: Rewriter,
        cache_dir: str,
        above: float = 0.7,
        below: float = 0.5,
        part: Count = 100,
        workers: Count = 1,
        shown: Count = 12,
        seed: Whole = 0,
    ) -> None:
        self.candidates, self.rewriter = candidates, rewriter
        self.filter, self.cache = Filter(semantic, visual, above, below), Path(cache_dir) / "svco" / "mvc"
        self.part, self.workers, self.shown, self.seed = part, workers, shown, seed

    def prepare(self) -> None:
        self.candidates.prepare()

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that the parts follow from; digests of models' files and weights among it."""
        described = {"candidates": self.candidates.description(), "rewriter": self.rewriter.description()}
        settings = dict(part=self.part, seed=self.seed, version=VERSION)
        return json.loads(json.dumps({**described, **self.filter.description(), **settings}))

    def fingerprint(self) -> dict[str, str]:
        return {"data": digest(self.key["candidates"]), "pipeline": digest(self.key)}

    def starts(self) -> range:
        """The number of each part's first candidate."""
        return range(0, len(self.candidates), self.part)

    def needs(self) -> list[Thing]:
        """Every part of the candidates, in order."""
        return [self.thing(start) for start in self.starts()]

    def thing(self, start: int) -> Thing:
        place = place_of(**self.kept(start))
        last = min(start + self.part, len(self.candidates))
        ask = partial(self.folder_of, start)
        return Thing("part", "pairs", f"{start + 1} to {last}", 0, "filtered and worded once", place, ask)

    def kept(self, start: int) -> dict[str, Any]:
        return {"folder": self.cache, "key": {**self.key, "start": start}}

    def folder_of(self, start: int) -> Path:
        """The folder of one part, which is made where it is not there."""
        return made(**self.kept(start), make=partial(self.make, start=start), thing=self.thing(start))

    def parts(self) -> Iterator[Path]:
        """The folder of every part, in order."""
        needs = self.needs()
        if self.workers == 1:
            yield from (thing.ask() for thing in needs if thing.ask)
            return
        # Spawned, not forked: torch's threads do not survive a fork. What another process makes is told here.
        kept = [thing.is_kept for thing in needs]
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            folders = pool.map(self.folder_of, self.starts())
            for thing, there in zip(needs, kept, strict=True):
                if there:
                    watcher().found(thing)
                with contextlib.nullcontext() if there else watcher().making(thing):
                    folder = next(folders)
                yield folder

    def make(self, place: Path, start: int) -> None:
        """One part: a line of `rows.jsonl` a candidate, and the pictures."""
        group = list(self.candidates.part(start, start + self.part))
        verdicts = self.filter([c.one for c in group], [c.other for c in group], [c.flip for c in group])
        rows = []
        for number, (candidate, (semantic, visual, found)) in enumerate(zip(group, verdicts, strict=True), start=start):
            worded = self.rewriter(candidate, np.random.default_rng([self.seed, number]))
            if found.startswith("kept") and not keeps_contrast(candidate, worded):
                found = "rewording lost the contrast"
            if candidate.one.tobytes() == candidate.other.tobytes():
                found = "the same picture"
            names = [f"{candidate.name}-{side}.png" for side in "ab"]
            for name, picture in zip(names, (candidate.one, candidate.other), strict=True):
                picture.save(place / name)
            rows.append(
                {
                    "verdict": found,
                    "category": candidate.category,
                    "semantic": semantic,
                    "visual": visual,
                    "images": names,
                    **worded._asdict(),
                }
            )
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, desk: Desk) -> dict[str, float]:
        target = desk.folder / "mvc"
        shutil.rmtree(target, ignore_errors=True)
        (target / "images").mkdir(parents=True)
        pairs: list[mvc.Pair] = []
        sheet: dict[str, list[tuple[Path, dict[str, Any]]]] = {"kept": [], "rejected": []}
        counts: Counter[tuple[str, str]] = Counter()
        for folder in self.parts():
            for row in map(json.loads, (folder / "rows.jsonl").read_text().splitlines()):
                kept = row["verdict"].startswith("kept")
                counts[row["category"], row["verdict"]] += 1
                sheet["kept" if kept else "rejected"].append((folder, row))
                if kept:
                    images = [shutil.copy(folder / name, target / "images" / name) for name in row["images"]]
                    pairs.append(
                        mvc.Pair(
                            instruction=row["question"],
                            chosen_image=Path(images[0]),
                            rejected_image=Path(images[1]),
                            chosen=row["one"],
                            rejected=row["other"],
                            category=row["category"],
                        )
                    )
        if not pairs:
            raise ValueError(
                f"none of {sum(counts.values())} candidates was kept ({dict(counts.most_common(3))}); lower study.above, "
                f"which is {self.filter.above}, or raise study.below, which is {self.filter.below}."
            )
        mvc.write(target / "mvc.json", pairs)
        mvc.read(target / "mvc.json")  # what we hand out must pass what we ask of others
        preferences.write(target / "preferences.parquet", pairs)
        rows = [{"category": c, "verdict": reason, "pairs": n} for (c, reason), n in sorted(counts.items())]
        desk.table("datasheet", rows)
        for name, group in sheet.items():
            desk.figure(f"{name}_pairs", self._sheet(group, name))
        total = sha256(target / "mvc.json")
        desk.say(f"{len(pairs)} of {sum(counts.values())} pairs kept: {target}/mvc.json (SHA-256 {total[:16]})")
        return {"svco/mvc_kept": float(len(pairs)), "svco/mvc_candidates": float(sum(counts.values()))}

    def _sheet(self, group: list[tuple[Path, dict[str, Any]]], name: str) -> Any:
        spread = group[:: max(1, len(group) // self.shown)][: self.shown]
        pairs = []
        for folder, row in spread:
            one, other = (mvc.open_image(folder / image) for image in row["images"])
            numbers = f"alike {row['semantic']:.2f}, to the eye {row['visual']:.2f}"
            pairs.append((one, other, f"{row['category']} ({row['verdict']}): {numbers}"))
        return draw.contact_sheet(pairs=pairs, title=f"Pairs {name}: {len(group)} in all")
