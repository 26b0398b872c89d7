"""Which tests start processes, read from their code: no list of them that one forgets to extend."""

import inspect
import multiprocessing
import subprocess
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch.multiprocessing

STARTERS = (subprocess, multiprocessing, torch.multiprocessing)


def names_in(code: CodeType) -> set[str]:
    inner = (names_in(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inner)


def uses(function: FunctionType) -> Iterator[Any]:
    """What a function's names stand for, those that it takes from a module of tests included."""
    names = names_in(function.__code__)
    for found in (function.__globals__[n] for n in names if n in function.__globals__):
        yield found
        if isinstance(found, ModuleType) and found.__name__.startswith("tests."):
            yield from (vars(found)[n] for n in names if n in vars(found))


@cache
def starts_processes(thing: Any) -> bool:
    """Whether a function or class, or anything of the tests that it uses, uses a module that starts processes."""
    seen, waiting = set(), [thing]
    while waiting:
        found = waiting.pop()
        found = inspect.unwrap(found) if callable(found) else found
        if any(found is s for s in STARTERS):
            return True
        if id(found) in seen or not getattr(found, "__module__", "").startswith("tests."):
            continue
        seen.add(id(found))
        parts = vars(found).values() if inspect.isclass(found) else [found]
        waiting += [used for p in parts if isinstance(p, FunctionType) for used in uses(p)]
    return False
