"""What a system says of its own config: the module that `checks` names in conf/system/SYSTEM.yaml.

It holds `CHECKS`, functions of the config that yield messages, and may hold `PLAIN`: dotted path of a node without
`_target_` -> the function whose signature says what may stand there.
"""

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Protocol

from omegaconf import DictConfig

from lightning_modules.runtime import trust


class Checks(Protocol):
    CHECKS: tuple[Callable[[DictConfig], Iterator[str]], ...]
    PLAIN: dict[str, Callable[..., Any]]


class Nothing:
    """Of a system that has no checks of its own."""

    CHECKS: tuple[()] = ()
    PLAIN: dict[str, Callable[..., Any]] = {}


def checks_of(cfg: DictConfig) -> Any:
    """The checks of the config's system; none of a config that names none, or a module that it may not (`trust`)."""
    name = cfg.get("checks")
    if not trust.checks_allowed(name):
        return Nothing
    found: ModuleType = importlib.import_module(name)
    return found
