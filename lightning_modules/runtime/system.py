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
from types import ModuleType
from typing import Any

import yaml
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.runtime import trust

Check = Callable[[DictConfig], Iterator[str]]


def checks_of(cfg: DictConfig, kind: str = "CHECKS", *, module: str = "checks") -> list[Check]:
    """Those of the config's system and of its study's room; none of one that a config may not name (`trust`).

    kind: `CHECKS` or `PLACES`. module: `checks` or `builds`, whose import takes as long as a run's own imports.
    """
    return [check for each in _modules(cfg, module) for check in getattr(each, kind, ())]


def table_of(cfg: DictConfig, kind: str, *, module: str = "checks") -> dict[str, Any]:
    """`PLAIN`, `OPTIONS` or `BUILDS` of the same rooms."""
    return _table(_modules(cfg, module), kind)


def of_all(kind: str) -> dict[str, Any]:
    """`PLAIN` or `OPTIONS` of all the systems of conf/."""
    named = {yaml.safe_load(path.read_text())["checks"] for path in (trust.CONF / "system").glob("*.yaml")}
    return _table(map(importlib.import_module, sorted(named)), kind)


def _table(modules: Iterable[ModuleType], kind: str) -> dict[str, Any]:
    return {key: value for each in modules for key, value in getattr(each, kind, {}).items()}


def elsewhere(cfg: DictConfig) -> list[str]:
    """A message for each chosen option that is another system's: its keys would be found lacking one by one."""
    name, found = cfg.get("system_name"), []
    own, chosen = table_of(cfg, "OPTIONS").get(name, {}), cfg.hydra.runtime.choices
    # The other systems are asked only where there is something strange: their modules are imports of their own.
    for group in [group for group in own if chosen.get(group) is not None and chosen[group] not in own[group]]:
        if owners := [one for one, groups in of_all("OPTIONS").items() if chosen[group] in groups.get(group, ())]:
            told = f"expected one of {', '.join(own[group])}" if own[group] else f"{name} has no such option"
            found.append(f"{group}={chosen[group]} is of {' and '.join(owners)}, and this is {name}; {told}.")
    return found


def _modules(cfg: DictConfig, module: str) -> list[ModuleType]:
    told = dict.fromkeys(map(str, filter(trust.checks_allowed, (cfg.get("checks"), _of_study(cfg)))))
    names = [f"{name.rpartition('.')[0]}.{module}" for name in told]
    # A room need not have `builds`.
    return [importlib.import_module(name) for name in names if name in told or find_spec(name)]


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
