"""One message for every word that is not one of those expected."""

import difflib
from collections.abc import Iterable, Sequence


def check_choice(key: str, found: str, expected: Iterable[str]) -> None:
    """ValueError unless `found` is one of `expected`, naming the config key and the nearest word."""
    words = list(expected)
    if found in words:
        return
    near = difflib.get_close_matches(str(found), words, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]}" if near else ""
    raise ValueError(f"{key} is {found!r}; expected one of {', '.join(words)}{hint}.")


def check_once(key: str, found: Sequence[object]) -> None:
    """ValueError where a list names something twice: it would count twice in every mean and interval."""
    for n, each in enumerate(found):
        if each in found[:n]:
            raise ValueError(f"{key} names {each} twice; expected each once.")


def nearest(word: str, words: list[str]) -> str:
    """`; the nearest is 'x'`, or '' when nothing is near."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"; the nearest is {near[0]!r}" if near else ""
