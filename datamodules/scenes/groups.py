"""Pictures that a chain of pairs connects, which no split may part."""

from collections.abc import Hashable, Iterable
from itertools import chain
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

# Whatever names a picture.
P = TypeVar("P", bound=Hashable)


def groups(pairs: Iterable[tuple[P, P]]) -> dict[P, int]:
    """The number of the group of every picture; pictures and groups in the order in which they first come."""
    edges = list(pairs)
    number = {picture: n for n, picture in enumerate(dict.fromkeys(chain.from_iterable(edges)))}
    ends = [[number[picture] for picture in side] for side in zip(*edges, strict=True)]
    links = coo_matrix((np.ones(len(edges)), tuple(ends)), shape=(len(number),) * 2)
    return dict(zip(number, connected_components(links, directed=False)[1].tolist(), strict=True))
