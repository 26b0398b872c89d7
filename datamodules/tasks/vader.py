"""Real text: sentiment, source and subjectivity tasks on the human-rated sentences of VADER.

About 23,600 different sentences of films' and products' reviews, tweets and newspaper editorials, each rated from -4 to 4
by ten or twenty people.
"""

import html
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, NamedTuple

from annotated_types import Interval

from datamodules.tasks.task import Task
from datamodules.vader import FILES, Snippet, snippets
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.digests import number_of

Valence = Annotated[float, Interval(ge=0, le=4)]
SENTIMENT, SUBJECTIVITY = ("good", "bad"), ("emotional", "neutral")
SOURCES = {"movie": "movie", "amazon": "product", "tweets": "message", "nyt": "newspaper"}
HINTS = {"sentiment": "it was", "source": "this is from a", "subjectivity": "the tone is"}


class Recipe(NamedTuple):
    """A task: its skill and the corpora it is drawn from; of a source task one a class."""

    skill: str
    corpora: tuple[str, ...]


RECIPES = {
    **{f"sentiment_{name}": Recipe("sentiment", (name,)) for name in FILES},
    "source_movie_amazon": Recipe("source", ("movie", "amazon")),
    "source_tweets_nyt": Recipe("source", ("tweets", "nyt")),
    "source_four": Recipe("source", tuple(FILES)),
    # Reviews of films have too few sentences without feeling.
    **{f"subjectivity_{name}": Recipe("subjectivity", (name,)) for name in ("amazon", "tweets", "nyt")},
}


class Vader:
    """Tasks by the names of `RECIPES`, balanced over classes.

    A sentence is in one split, whatever the task: no task's test sentences were trained on in another.

    Args:
        downloads: git-ignored folder of the archive; fetched from the package index when it is not there.
        neutral: sentiment tasks leave out sentences whose mean valence is 0, or nearer to it than this.
        flat, strong: subjectivity is |valence| of at most `flat` against at least `strong`.
        train, val, test: examples of a task's splits, fewer where the rarer class does not reach.
    """

    def __init__(
        self,
        *,
        downloads: str,
        neutral: Valence = 0.5,
        flat: Valence = 0.25,
        strong: Valence = 1.5,
        train: Count = 1024,
        val: Count = 256,
        test: Count = 512,
        seed: Whole = 0,
    ) -> None:
        if flat >= strong:
            raise ValueError(f"data.source.flat is {flat}; expected less than data.source.strong, which is {strong}.")
        self.downloads, self.neutral, self.flat, self.strong = Path(downloads), neutral, flat, strong
        self.sizes, self.seed = {"train": train, "val": val, "test": test}, seed

    def names(self) -> list[str]:
        return list(RECIPES)

    def task(self, name: str) -> Task:
        """ValueError for an unknown name or a damaged archive."""
        check_choice("data.task", name, RECIPES)
        skill, corpora = RECIPES[name]
        classes = {
            "sentiment": SENTIMENT,
            "subjectivity": SUBJECTIVITY,
            "source": tuple(SOURCES[c] for c in corpora),
        }[skill]
        pools: dict[str, list[list[str]]] = {split: [[] for _ in classes] for split in self.sizes}
        for label, text in self._labelled(skill, corpora):
            pools[self._split(text)][label].append(text)
        texts: dict[str, list[str]] = {}
        labels: dict[str, list[int]] = {}
        for split, pool in pools.items():
            count = min(self.sizes[split] // len(classes), *map(len, pool))
            chosen = [
                (text, label) for label, members in enumerate(pool) for text in sorted(members, key=self._place)[:count]
            ]
            chosen.sort(key=lambda pair: self._place(pair[0]))
            texts[split], labels[split] = [t for t, _ in chosen], [label for _, label in chosen]
        return Task(name, skill, classes, texts, labels, hint=HINTS[skill])

    def _labelled(self, skill: str, corpora: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        for number, corpus in enumerate(corpora):
            for _, valence, text in different(self.downloads)[corpus]:
                if skill == "source":
                    yield number, text
                elif skill == "sentiment" and valence and abs(valence) >= self.neutral:
                    yield int(valence < 0), text
                elif skill == "subjectivity" and (abs(valence) <= self.flat or abs(valence) >= self.strong):
                    yield int(abs(valence) <= self.flat), text

    def _place(self, text: str) -> int:
        return number_of(f"vader-{self.seed}|{text}")

    def _split(self, text: str) -> str:
        """Splits share the sentences in proportion to their sizes."""
        at = number_of(f"split|{text}") % sum(self.sizes.values())
        return next(split for split, end in zip(self.sizes, accumulate(self.sizes.values()), strict=True) if at < end)


@cache
def different(downloads: Path) -> dict[str, list[Snippet]]:
    """Corpus -> its sentences, each once in all four, however it is spaced or capitalised; entities are decoded."""
    found: dict[str, list[Snippet]] = {}
    seen: set[str] = set()
    for name, corpus in zip(FILES, snippets(downloads, *FILES), strict=True):
        found[name] = []
        for id, valence, raw in corpus:
            text = " ".join(html.unescape(raw).split())
            if text and text.casefold() not in seen:
                seen.add(text.casefold())
                found[name].append(Snippet(id, valence, text))
    return found
