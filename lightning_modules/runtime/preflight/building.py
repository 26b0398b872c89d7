"""What constructors say, asked before anything costly is made: all that costs nothing is built and thrown away.

`BUILDS` of a room's `builds.py` says what a target makes: target -> itself, or what stands in for it and raises ValueError
as it would. What is not in it is not built, nor what needs it.
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.common.say import say
from lightning_modules.runtime import records, system
from lightning_modules.runtime.preflight import names

# What a run that is no study builds, in this order; a study has its own data.
RUN = ("data", "module")


class Unknown:
    """What was not built."""


UNKNOWN = Unknown()


def named(*kinds: type) -> dict[str, type]:
    """`BUILDS` of classes that a config names where they are defined."""
    return {f"{kind.__module__}.{kind.__name__}": kind for kind in kinds}


def is_done(cfg: DictConfig) -> bool:
    """Then nothing is made, and nobody should wait for what making it would say."""
    return not (cfg.fresh or cfg.plan or cfg.replay) and (Path(cfg.hydra.run.dir) / records.RESULT).is_file()


def problems(cfg: DictConfig, *, told: list[str]) -> list[str]:
    """Nothing where something is told already: a constructor would say it again, and importing it takes seconds."""
    if told or is_done(cfg):
        return []
    if "torch" not in sys.modules:
        say("Checking the command. torch is loaded for that, which takes some seconds.")
    builds = system.table_of(cfg, "BUILDS", module="builds")
    found = system.asked((names.lightning_takes_them, *system.checks_of(cfg, module="builds")), cfg)
    for name in ("study",) if cfg.get("study") else RUN:
        if builds and OmegaConf.is_config(cfg.get(name)):
            build(OmegaConf.to_container(cfg[name], resolve=True), builds, found)
    return list(dict.fromkeys(found))


def build(node: Any, builds: dict[str, Any], found: list[str]) -> Any:
    """What `node` of a plain config makes, or UNKNOWN."""
    if isinstance(node, list):
        made = [build(value, builds, found) for value in node]
        return UNKNOWN if any(value is UNKNOWN for value in made) else made
    if not isinstance(node, dict):
        return node
    target = node.get("_target_")
    given = {key: build(value, builds, found) for key, value in node.items() if key != "_target_"}
    if any(value is UNKNOWN for value in given.values()):
        return UNKNOWN
    if target is None:
        return given
    if target not in builds or any(key.startswith("_") for key in given):
        return UNKNOWN
    try:
        return builds[target](**given)
    except ValueError as error:
        found.append(" ".join(str(error).split()))
        return UNKNOWN
