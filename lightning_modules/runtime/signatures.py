"""Signatures of what a config calls: parameters, defaults and types.

They are kept by the content of all sources and by the packages that are installed, so that a command line is checked
without the seconds that importing torch and Lightning takes. What `FACET_PACKAGES` names is read anew each time.
"""

import contextlib
import inspect
import json
import os
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from hydra.utils import get_object

from lightning_modules.common.files import write_atomically
from lightning_modules.runtime import hints, trust

PROJECT = Path(__file__).parents[2]
KEPT_IN = PROJECT / ".cache" / "signatures"
# Of sources that were edited since; the newest stay, for work on several branches.
KEPT = 8


class Parameter(NamedTuple):
    """`kind` by its name in `inspect`; `hint` as `hints` writes it, None where only the code itself can tell."""

    kind: str
    required: bool
    hint: Any


class Signature(NamedTuple):
    """`name`: what messages call it."""

    target: str
    name: str
    parameters: dict[str, Parameter]

    def to_json(self) -> Any:
        return [self.name, self.parameters]

    @classmethod
    def from_json(cls, target: str, found: Any) -> "Signature":
        name, parameters = found
        return cls(target, name, {key: Parameter(*values) for key, values in parameters.items()})

    @property
    def open_ended(self) -> bool:
        return any(p.kind == "VAR_KEYWORD" for p in self.parameters.values())

    def needs(self, name: str) -> bool:
        parameter = self.parameters[name]
        return parameter.required and parameter.kind in ("KEYWORD_ONLY", "POSITIONAL_OR_KEYWORD")

    def hint(self, name: str) -> Any:
        """The annotation of a parameter, Any where there is none."""
        written = self.parameters[name].hint
        return annotations(get_object(self.target)).get(name, Any) if written is None else hints.read(written)


def of(target: str) -> Signature:
    """Of the function or class with this dotted name. Raises what importing it raises, when it is not kept."""
    if target.partition(".")[0] in trust.packages():
        return read(get_object(target), target=target)
    kept = _kept()
    if target not in kept:
        kept[target] = read(get_object(target), target=target)
        _keep(kept)
    return kept[target]


def read(function: Callable[..., Any], *, target: str = "") -> Signature:
    """From the code itself."""
    annotated = annotations(function)
    found = {
        name: Parameter(
            parameter.kind.name, parameter.default is parameter.empty, hints.write(annotated.get(name, Any))
        )
        for name, parameter in _taken(function).items()
    }
    if not target:
        # A function that is at hand has no need of a name by which it could be found.
        target = f"{function.__module__}.{function.__qualname__}"
    return Signature(target, _name(function), found)


def _name(function: Callable[..., Any]) -> str:
    if function.__qualname__ == "Trainer.__init__":
        return "pytorch_lightning.Trainer"
    return f"{function.__module__}.{function.__qualname__}"


def _taken(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Of a class of ours that hands `**shared` on, its bases' too, which it may give them itself; nothing is open then."""
    found = dict(inspect.signature(function).parameters)
    for base in _bases(function):
        if handed_on := [name for name, p in found.items() if p.kind is p.VAR_KEYWORD]:
            del found[handed_on[0]]
            below = inspect.signature(base).parameters
            found = {n: p if p.kind is p.VAR_KEYWORD else p.replace(default=None) for n, p in below.items()} | found
    return found


def _bases(function: Callable[..., Any]) -> list[type]:
    """Classes of ours that a class of ours hands arguments on to."""
    if not inspect.isclass(function) or not function.__module__.startswith(trust.OURS):
        return []
    return [b for b in function.__mro__[1:] if "__init__" in vars(b) and b.__module__.startswith(trust.OURS)]


def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Type hints by parameter, of a class of ours those of its bases too (`_taken`)."""
    if not inspect.isclass(function):
        return _annotations(function)
    found: dict[str, Any] = {}
    for each in (*reversed(_bases(function)), function):
        found |= _annotations(inspect.getattr_static(each, "__init__"))
    return found


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """One that names what only a type checker imports says nothing, and the others stay."""
    called = inspect.unwrap(function)
    try:
        return get_type_hints(called, include_extras=True)
    except NameError:
        found = {}
        for name, hint in inspect.get_annotations(called).items():
            with contextlib.suppress(NameError):
                found[name] = eval(hint, called.__globals__) if isinstance(hint, str) else hint
        return found


@cache
def _kept() -> dict[str, Signature]:
    try:
        return {t: Signature.from_json(t, found) for t, found in json.loads(place().read_text()).items()}
    except (OSError, ValueError, TypeError):
        # Not there yet, or damaged: it is read from the code again.
        return {}


def _keep(kept: dict[str, Signature]) -> None:
    # A checkout that one may only read costs time and nothing else.
    with contextlib.suppress(OSError):
        KEPT_IN.mkdir(parents=True, exist_ok=True)
        write_atomically(place(), json.dumps({target: s.to_json() for target, s in kept.items()}))
        for old in sorted(KEPT_IN.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)


@cache
def place() -> Path:
    found = sha256(sys.version.encode())
    packages = Path(sysconfig.get_paths()["purelib"])
    found.update("\n".join(sorted(name for name in os.listdir(packages) if name.endswith("-info"))).encode())
    for root in ("lightning_modules", "datamodules"):
        for path in sorted((PROJECT / root).rglob("*.py")):
            found.update(f"\n{path.relative_to(PROJECT)}\n".encode() + path.read_bytes())
    return KEPT_IN / f"{found.hexdigest()[:16]}.json"


def forget() -> None:
    """As a process that has just begun."""
    _kept.cache_clear()
    place.cache_clear()
