"""Short hashes of what a result depends on: settings, weights, texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def digest(value: Any) -> str:
    """16 hex digits of the SHA-256 of `value` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest_of_weights(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits of the SHA-256 of every weight's name and bytes, by name."""
    # A name of a folder is digested before anybody has the seconds that torch takes.
    import torch

    found = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        found.update(name.encode())
        if hasattr(weight, "full_tensor"):
            # Of weights that processes share all of them have to ask.
            weight = weight.full_tensor()
        # numpy has no bfloat16, and a scalar no view of its bytes.
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def number_of(text: str, *, size: int = 8) -> int:
    """A whole number of `size` bytes that is drawn by `text` alone, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:size])
