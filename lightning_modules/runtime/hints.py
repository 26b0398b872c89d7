"""Type hints as JSON and back, as far as checking a config's plain values asks for.

A class of torch or Lightning comes back as an empty one with its name: nothing that stands in a config is an instance of
either, and the message is the same.
"""

import collections.abc
import dataclasses
from datetime import timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import ConfigDict, TypeAdapter

from lightning_modules.runtime import trust

PLAIN: dict[str, Any] = {
    **{"any": Any, "none": NoneType, "callable": collections.abc.Callable, "path": Path, "timedelta": timedelta},
    **{kind.__name__: kind for kind in (bool, int, float, str, bytes, list, dict, tuple, set)},
}
CONTAINERS: dict[str, Any] = {
    **{kind.__name__: kind for kind in (list, dict, tuple, set)},
    **{name: getattr(collections.abc, name) for name in ("Sequence", "Mapping", "Iterable")},
}


def adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What checks a value against `hint`; None of one that pydantic cannot read, which is no reason to stop a run."""
    if _is_ours_to_make(hint):
        hint = type(hint.__qualname__, (), {})
    try:
        made = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:
        return None
    # One that names what is not there to be looked up is made, and raises at the first value.
    return made if made.pydantic_complete else None


def _is_ours_to_make(hint: Any) -> bool:
    """A protocol of ours, as a source of data: what fulfils it is made by a `_target_`, and no plain value does."""
    return getattr(hint, "_is_protocol", False) is True and hint.__module__.startswith(trust.OURS)


def write(hint: Any) -> Any:
    """JSON, or None of a hint that is none of those known here."""
    try:
        return _written(hint)
    except LookupError:
        return None


def read(written: Any) -> Any:
    """The hint that `write` was given, classes of others replaced."""
    if isinstance(written, str):
        return PLAIN[written]
    kind, *parts = written
    if kind == "union":
        return Union[tuple(map(read, parts))]  # noqa: UP007, of a list
    if kind == "literal":
        return Literal[tuple(parts)]
    if kind == "instance":
        return type(parts[0], (), {})
    if kind == "annotated":
        bounds = [getattr(annotated_types, name)(**fields) for name, fields in parts[1:]]
        return Annotated[(read(parts[0]), *bounds)]
    return CONTAINERS[kind][tuple(... if part == "..." else read(part) for part in parts)]


def _written(hint: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return ["union", *map(_written, parts)]
    if origin is Literal and all(isinstance(part, str | int | None) for part in parts):
        return ["literal", *parts]
    if origin is Annotated:
        return ["annotated", _written(parts[0]), *map(_bound, parts[1:])]
    if origin is collections.abc.Callable:
        return "callable"
    for name, kind in CONTAINERS.items():
        if origin is kind:
            return [name, *("..." if part is ... else _written(part) for part in parts)]
    for name, kind in PLAIN.items():
        if hint is kind or (hint is None and kind is NoneType):
            return name
    if isinstance(hint, type) and (made := adapter(hint)) and made.core_schema["type"] == "is-instance":
        return ["instance", hint.__qualname__]
    raise LookupError(hint)


def _bound(bound: Any) -> Any:
    if type(bound).__module__ != "annotated_types" or not dataclasses.is_dataclass(bound):
        raise LookupError(bound)
    return [type(bound).__name__, {f.name: getattr(bound, f.name) for f in dataclasses.fields(bound)}]
