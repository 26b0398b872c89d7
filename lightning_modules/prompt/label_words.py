"""Classes scored by label words of several tokens: the sum or the mean of the tokens' log-probabilities.

A masked model is asked with as many masks as a word has tokens, each token at its mask (Schick and Schuetze, NAACL 2021,
section 3.1: all at once, as in their training); a causal model and a decoder read the tokens before each one. Words that are
asked in the same way share a forward: those of one length, or with the same tokens before their last.

Shape legend: B examples, V words, C classes, W tokens of a word.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Word = tuple[int, ...]


def word_scores(
    label_words: Sequence[Sequence[Word]], ask: Callable[[Word], Tensor], *, mask: int | None, reading: str
) -> Tensor:
    """Class scores [B, C] by the words of each class; of several words their mean.

    Args:
        ask: logits [B, W, V] at the asked position and behind each of the tokens that it is given, which follow there.
        mask: what stands in the place of a word's further tokens; None: the tokens before each one.
        reading: of a word's tokens the `sum` or the `mean`.
    """
    found: dict[Word, Tensor] = {}
    ways: dict[Word, list[Word]] = {}
    for word in (word for of_class in label_words for word in of_class):
        ways.setdefault(word[:-1] if mask is None else (mask,) * (len(word) - 1), []).append(word)
    for further, words in ways.items():
        logits_BWV = ask(further)
        logits_BWV = logits_BWV.to(torch.promote_types(logits_BWV.dtype, torch.float32))
        whole_BW = logits_BWV.logsumexp(-1)
        for word in words:
            each_BW = torch.stack([logits_BWV[:, i, token] for i, token in enumerate(word)], 1) - whole_BW
            found[word] = each_BW.sum(1) if reading == "sum" else each_BW.mean(1)
    return torch.stack([torch.stack([found[word] for word in of_class]).mean(0) for of_class in label_words], 1)
