"""The four human-rated corpora of VADER (Hutto and Gilbert, ICWSM 2014), from the package's source distribution."""

import io
import tarfile
from pathlib import Path
from typing import NamedTuple

from datamodules.fetch import VADER, fetch, member_bytes

FILES = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "nyt": "nytEditorialSnippets",
}


class Snippet(NamedTuple):
    """A sentence; the part of `id` before `_` says which article or review it is from; valence is -4 to 4."""

    id: str
    valence: float
    text: str


def snippets(folder: Path, *names: str) -> list[list[Snippet]]:
    """Each corpus of `FILES` named, in its file's order; the archive is fetched into `folder` when it is not there.

    ValueError when it cannot be fetched or is damaged.
    """
    with tarfile.open(fetch(VADER, folder)) as outer:
        inner = member_bytes(outer, f"vaderSentiment-{VADER.version}/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=io.BytesIO(inner)) as corpora:
            texts = [member_bytes(corpora, f"hutto_ICWSM_2014/{FILES[n]}_GroundTruth.txt") for n in names]
    rows = [[line.split("\t", 2) for line in t.decode("utf-8", "replace").splitlines()] for t in texts]
    return [[Snippet(id, float(valence), text.strip()) for id, valence, text in corpus] for corpus in rows]
