"""Classes scored by label words of several tokens: the sum or the mean of the tokens' log-probabilities.

A masked model is asked with as many masks as a word has tokens, each token at its mask (Schick and Schuetze, NAACL 2021,
section 3.1: all at once, as in their training); a causal model and a decoder read the tokens before each one. Words that are
asked in the same way share a forward: those of one length, or with the same tokens before their last.

Shape legend: B examples, V words, C classes, W tokens of a word.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Asked(Protocol):
    """What of a backbone is needed here."""

    kind: str
    tokenizer: Any

    def logits_behind(
        self, batch: dict[str, Any], prompt: Tensor | None, further: tuple[int, ...], *, lean: bool = False
    ) -> Tensor: ...


def word_scores(backbone: Asked, batch: Mapping[str, Any], prompt: Tensor | None, *, lean: bool = False) -> Tensor:
    """Class scores [B, C] by `label_words` of the batch and its `reading`, `sum` or `mean`; of several words their mean."""
    found: dict[tuple[int, ...], Tensor] = {}
    ways: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for word in (word for of_class in batch["label_words"] for word in of_class):
        ways.setdefault(_further(backbone, word), []).append(word)
    for further, words in ways.items():
        logits_BWV = backbone.logits_behind(dict(batch), prompt, further, lean=lean)
        logits_BWV = logits_BWV.to(torch.promote_types(logits_BWV.dtype, torch.float32))
        whole_BW = logits_BWV.logsumexp(-1)
        for word in words:
            each_BW = torch.stack([logits_BWV[:, i, token] for i, token in enumerate(word)], 1) - whole_BW
            found[word] = each_BW.sum(1) if batch["reading"] == "sum" else each_BW.mean(1)
    return torch.stack(
        [torch.stack([found[word] for word in of_class]).mean(0) for of_class in batch["label_words"]], 1
    )


def _further(backbone: Asked, word: tuple[int, ...]) -> tuple[int, ...]:
    """What stands behind the asked position while a word is read."""
    if backbone.kind in ("masked", "encoder"):
        return (backbone.tokenizer.mask_token_id,) * (len(word) - 1)
    return word[:-1]
