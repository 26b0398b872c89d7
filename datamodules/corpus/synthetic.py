"""A few seconds' worth of seeded text in domains that differ in their letters: for tests and smoke runs."""

import random
from collections.abc import Iterator
from typing import Any

ALPHABETS = {"vowels": "aeiouy", "digits": "0123456789", "hard": "bdgkpt", "soft": "fhlmnrs"}


class SyntheticSource:
    """`documents` documents of about 60 words a domain; a domain's words are drawn from its own small alphabet."""

    def __init__(self, *, documents: int = 200, seed: int = 0) -> None:
        self.count, self.seed = documents, seed

    def description(self) -> dict[str, Any]:
        return {"source": "synthetic", "version": 1, "documents": self.count, "seed": self.seed}

    def documents(self) -> dict[str, Iterator[str]]:
        return {domain: self._texts(domain, letters) for domain, letters in ALPHABETS.items()}

    def _texts(self, domain: str, letters: str) -> Iterator[str]:
        draw = random.Random(f"{self.seed}-{domain}")
        words = ["".join(draw.choices(letters, k=draw.randint(2, 5))) for _ in range(60)]
        for _ in range(self.count):
            yield " ".join(draw.choices(words, weights=range(1, 61), k=60))
