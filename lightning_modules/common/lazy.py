"""Names of a room that are imported when they are first asked for: a command line is checked without torch."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names(room: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of the package `room`. modules: name -> the module below the room that defines it."""

    def found(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        value = getattr(import_module(f"{room}.{modules[name]}"), name)
        setattr(sys.modules[room], name, value)
        return value

    return found
