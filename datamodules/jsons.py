"""JSON as people have it, read strictly: what can be read in two ways, or written by nobody, is an error with its place."""

import json
import re
from collections.abc import Iterable, Iterator
from json import JSONDecodeError
from typing import Any

# Half of a character, which no UTF-8 can write.
HALF = re.compile(r"\\u[dD][89a-fA-F]")


class _TwiceError(ValueError): ...


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        raise _TwiceError(f"an object names {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def value_at(text: str, place: int = 0) -> tuple[Any, int]:
    """The value that begins at `text[place]`, and where it ends.

    JSONDecodeError, also for what json itself reads or ends otherwise at: a name that an object has twice, of which it takes
    the last; half a character; objects that nest too deeply; a number too long to be one.
    """
    try:
        found, end = _DECODER.raw_decode(text, place)
    except JSONDecodeError:
        raise
    except RecursionError:
        raise JSONDecodeError("nested too deeply", text, place) from None
    except ValueError as error:
        reason = str(error) if isinstance(error, _TwiceError) else "a number of more digits than can be read"
        raise JSONDecodeError(reason, text, place) from None
    if HALF.search(text, place, end):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):x}"
            raise JSONDecodeError(f"a text holds half a character, {half}", text, place) from None
    return found, end


def value(text: str) -> Any:
    """The one value of `text`."""
    found, end = value_at(text, _behind_blanks(text, 0))
    if (more := _behind_blanks(text, end)) < len(text):
        raise JSONDecodeError("more stands behind the value", text, more)
    return found


def lines(texts: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each line that is not blank; an error comes as the value of its own."""
    for number, text in enumerate(texts, 1):
        if text.strip():
            try:
                yield number, value(text)
            except JSONDecodeError as error:
                yield number, error


def items(text: str) -> Iterator[tuple[int, Any]]:
    """(line, value) of each item of a list; an error comes as the last value, as nobody knows where the next item begins."""
    place, line, counted, first = text.index("[") + 1, 1, 0, True
    while True:
        place = _behind_blanks(text, place)
        if comma := not first and text[place : place + 1] == ",":
            place = _behind_blanks(text, place + 1)
        line, counted = line + text.count("\n", counted, place), place
        if place >= len(text):
            yield line, JSONDecodeError("the list has no end: the file is cut off", text, place)
            return
        if text[place] == "]" and not comma:
            if (more := _behind_blanks(text, place + 1)) < len(text):
                error = JSONDecodeError("more stands behind the list", text, more)
                yield error.lineno, error
            return
        try:
            if not first and not comma:
                raise JSONDecodeError("no comma stands between two items", text, place)
            found, place = value_at(text, place)
        except JSONDecodeError as error:
            yield error.lineno, error
            return
        first = False
        yield line, found


def _behind_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
