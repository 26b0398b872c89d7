"""What a system says of its own config: the module that `checks` names in conf/system/SYSTEM.yaml.

It holds `CHECKS`, functions of the config that yield messages about values, and may hold `PLACES`, the same about this
machine, `PLAIN`: dotted path of a node without `_target_` -> the function whose signature says what may stand there, and
`OPTIONS`: system -> group -> the options that are its own, none where a group is for others. It imports nothing that takes
seconds. What does stands in the module `builds` beside it: `BUILDS`, target -> what it makes, of what costs nothing to make
(`preflight/building.py`), and `CHECKS` too. The room of a study may have such modules as well.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.runtime import trust

Check = Callable[[DictConfig], Iterator[str]]


class Checks(NamedTuple):
    """Of a system that has none of its own: nothing."""

    checks: tuple[Check, ...] = ()
    places: tuple[Check, ...] = ()
    plain: dict[str, Callable[..., Any]] = {}
    options: dict[str, dict[str, tuple[str, ...]]] = {}


class Builds(NamedTuple):
    checks: tuple[Check, ...] = ()
    builds: dict[str, Callable[..., Any]] = {}


def checks_of(cfg: DictConfig) -> Checks:
    """The checks of the config's system and of its study's room; none of one that a config may not name (`trust`)."""
    found = Checks()
    for name in _modules(cfg):
        module = importlib.import_module(name)
        found = Checks(
            (*found.checks, *getattr(module, "CHECKS", ())),
            (*found.places, *getattr(module, "PLACES", ())),
            found.plain | getattr(module, "PLAIN", {}),
            found.options | getattr(module, "OPTIONS", {}),
        )
    return found


def builds_of(cfg: DictConfig) -> Builds:
    """What the rooms of `checks_of` build; importing it takes as long as a run's own imports."""
    found = Builds()
    for name in _modules(cfg):
        beside = f"{name.rpartition('.')[0]}.builds"
        if find_spec(beside):
            module = importlib.import_module(beside)
            found = Builds((*found.checks, *getattr(module, "CHECKS", ())), found.builds | module.BUILDS)
    return found


def elsewhere(cfg: DictConfig) -> list[str]:
    """A message for each chosen option that is another system's: its keys would be found lacking one by one."""
    name, found = cfg.get("system_name"), []
    own, chosen = checks_of(cfg).options.get(name, {}), cfg.hydra.runtime.choices
    # The other systems are asked only where there is something strange: their modules are imports of their own.
    for group in [group for group in own if chosen.get(group) is not None and chosen[group] not in own[group]]:
        if owners := [one for one, groups in options().items() if chosen[group] in groups.get(group, ())]:
            told = f"expected one of {', '.join(own[group])}" if own[group] else f"{name} has no such option"
            found.append(f"{group}={chosen[group]} is of {' and '.join(owners)}, and this is {name}; {told}.")
    return found


def options() -> dict[str, dict[str, tuple[str, ...]]]:
    """System -> group -> its own options, of the systems of conf/."""
    modules = sorted({yaml.safe_load(path.read_text())["checks"] for path in (trust.CONF / "system").glob("*.yaml")})
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in modules:
        found |= importlib.import_module(name).OPTIONS
    return found


def _modules(cfg: DictConfig) -> list[str]:
    return list(dict.fromkeys(map(str, filter(trust.checks_allowed, (cfg.get("checks"), _of_study(cfg))))))


def _of_study(cfg: DictConfig) -> str | None:
    study = cfg.get("study")
    target = study.get("_target_") if isinstance(study, DictConfig) else None
    if not trust.target_allowed(target) or not str(target).startswith(trust.OURS):
        return None
    name = ".".join(str(target).split(".")[:2]) + ".checks"
    return name if find_spec(name) else None


def asked(checks: Iterable[Check], cfg: DictConfig) -> list[str]:
    """Messages of every check that fails. One whose keys this system has not is left out."""
    found: list[str] = []
    for check in checks:
        try:
            found += list(check(cfg))
        except (AttributeError, KeyError, TypeError, OmegaConfBaseException):
            # Of a wrong type or missing, which the schema has reported, or not there in this system.
            continue
        except ValueError as error:
            found.append(str(error))
    return found
