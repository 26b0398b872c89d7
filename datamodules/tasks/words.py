"""Label words as tokens of a backbone; what cannot be a label word is told here.

Shape legend: C classes, N words of the class that has most.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Tokens = tuple[int, ...]
# What begins a word in byte-level and in SentencePiece vocabularies, and what ends one in XLM's.
BEGINS, ENDS = ("Ġ", "▁"), "</w>"


def pad_of(tokenizer: Any) -> int:
    """The token that fills up shorter texts. ValueError where the tokenizer has none."""
    for name in ("pad_token_id", "eos_token_id"):
        if (token := getattr(tokenizer, name)) is not None:
            return int(token)
    raise ValueError(
        "backbone: its tokenizer has neither a padding nor an EOS token; expected one, which fills up shorter texts: set "
        "`pad_token` in its tokenizer_config.json."
    )


def refuse_beyond(tokenizer: Any, *, rows: int, model: str) -> None:
    """ValueError where words of the tokenizer, or marks that Facet puts, have no row among the `rows` of a model's table.

    Marks that stand in no text may lie beyond it.
    """
    put = {getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "mask", "bos", "cls", "sep", "eos")}
    unused = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special} - put
    if beyond := sorted(w for w, number in tokenizer.get_vocab().items() if number >= rows and number not in unused):
        raise ValueError(
            f"backbone: its tokenizer has {len(beyond)} tokens ({beyond[0]!r} is one) beyond the {rows} rows of the word "
            f"embedding of {model}; expected a model that was made larger with its tokenizer (resize_token_embeddings)."
        )


def tokens_of(
    words: Sequence[Sequence[str]], tokenizer: Any, *, task: str, single: bool
) -> tuple[tuple[Tokens, ...], ...]:
    """The tokens of every word of every class; single: each must be one token.

    ValueError naming the word that is empty, special, unknown to the tokenizer, or another class's too.
    """
    found = tuple(tuple(_tokens(word, tokenizer, task, single) for word in of_class) for of_class in words)
    first: dict[Tokens, str] = {}
    for of_class, read in zip(words, found, strict=True):
        for word, tokens in zip(of_class, read, strict=True):
            if tokens in first:
                raise ValueError(
                    f"task {task}: label words {first[tokens]} and {word} are the same tokens of this backbone; expected "
                    "words that differ."
                )
            first[tokens] = word
    return found


def label_ids(tokens: Sequence[Sequence[Tokens]]) -> dict[str, Tensor]:
    """Of words of one token: `label_ids` [C]; where a class has several [C, N] beside `label_share` [C, N].

    A word's share is one over the words of its class, and 0 in the places that are left.
    """
    ids = [torch.tensor([word for (word,) in of_class]) for of_class in tokens]
    if all(len(of_class) == 1 for of_class in ids):
        return {"label_ids": torch.cat(ids)}
    share = [torch.full((len(of_class),), 1 / len(of_class)) for of_class in ids]
    return {"label_ids": pad_sequence(ids, batch_first=True), "label_share": pad_sequence(share, batch_first=True)}


def _tokens(word: str, tokenizer: Any, task: str, single: bool) -> Tokens:
    if not word.strip():
        raise ValueError(f"task {task}: a label word is {word!r}; expected a word for every class.")
    readings = _readings(word, tokenizer)
    known = [tokens for tokens in readings if tokenizer.unk_token_id not in tokens]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if any(special.intersection(tokens) for tokens in readings):
        raise ValueError(
            f"task {task}: label word {word!r} is a special token of this backbone; expected a word that a text may hold."
        )
    # In the middle of a text a word has a space before it; some vocabularies write that space as a token of its own.
    shortest = min(known, key=len, default=())
    if not shortest or (single and len(shortest) > 1):
        pieces = " ".join(map(str, tokenizer.convert_ids_to_tokens(list(shortest))))
        what = f"is {len(shortest)} tokens of this backbone ({pieces})" if shortest else "is unknown to this backbone"
        wanted = "one that is one token, or data.verbaliser=sum, mean or prototype" if shortest else "one that it knows"
        near = _nearest(word, tokenizer)
        raise ValueError(
            f"task {task}: label word {word!r} {what}; expected {wanted}{f'; the nearest is {near!r}' if near else ''}."
        )
    return shortest


def _readings(word: str, tokenizer: Any) -> list[Tokens]:
    found = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (f" {word.strip()}", word)]
    return [tokens for tokens in found if tokens]


def _nearest(word: str, tokenizer: Any) -> str:
    """The nearest whole word of the vocabulary that is one token; '' where none is near."""
    vocabulary = [token for token in tokenizer.get_vocab() if token not in tokenizer.all_special_tokens]
    marked = [token for token in vocabulary if token.startswith(BEGINS) or token.endswith(ENDS)]
    whole = {token.lstrip("".join(BEGINS)).removesuffix(ENDS) for token in marked or vocabulary}
    near = difflib.get_close_matches(word.strip(), sorted(w for w in whole if w.isalpha()), n=10, cutoff=0.5)
    return next((w for w in near if any(len(tokens) == 1 for tokens in _readings(w, tokenizer))), "")
