"""What a system says of its own config: the module that `checks` names in conf/system/SYSTEM.yaml.

It holds `CHECKS`, functions of the config that yield messages, and may hold `PLAIN`: dotted path of a node without
`_target_` -> the function whose signature says what may stand there.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig

from lightning_modules.runtime import trust


class Checks(NamedTuple):
    """Of a system that has none of its own: nothing."""

    checks: tuple[Callable[[DictConfig], Iterator[str]], ...] = ()
    plain: dict[str, Callable[..., Any]] = {}


def checks_of(cfg: DictConfig) -> Checks:
    """The checks of the config's system; none of a config that names none, or a module that it may not (`trust`)."""
    name = cfg.get("checks")
    if not trust.checks_allowed(name):
        return Checks()
    module = importlib.import_module(name)
    return Checks(module.CHECKS, getattr(module, "PLAIN", {}))
