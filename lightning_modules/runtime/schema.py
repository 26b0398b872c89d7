"""What a config may hold, read from the code it describes: signatures, annotations and their bounds.

A node with `_target_` is checked against the signature of its target; `Count` in it is a range. Nodes
without one are checked against the functions named in `PLAIN`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from lightning_modules.common.bounds import Count, Positive, Whole
from lightning_modules.common.choices import nearest
from lightning_modules.common.say import reason
from lightning_modules.runtime import hints, signatures, system, trust

CUTOFF = 0.8


def _top(
    *,
    experiment_name: str,
    run_name: str | None,
    system_name: str,
    checks: str | None,
    seed: Whole,
    threads: Whole,
    side_by_side: Count,
    part: str | None,
    fresh: bool,
    plan: bool,
    plan_flops: Positive | None,
    replay: str | None,
    replay_from_cache: bool,
    test: bool,
    export: bool,
    objective_metric: str,
    shown_metrics: list[str],
) -> None:
    """The scalars at the top of conf/config.yaml."""


def _paths(*, cache: str, runs: str, tracking: str, run: str) -> None: ...


def _look(*, runs: list[str | int | float], text: bool, own: str | None, page: bool) -> None: ...


def _logger(*, tracking_uri: str | None, artifact_location: str | None, model: bool = True) -> None: ...


# Dotted path of a node without `_target_` -> the function that takes it, or its name.
PLAIN: dict[str, Callable[..., Any] | str] = {
    "": _top,
    "logger": _logger,
    "look": _look,
    "paths": _paths,
    "optimizer": "lightning_modules.common.optimizer.adamw_with_schedule",
    "trainer": "pytorch_lightning.Trainer.__init__",
}
# Given by the code that calls, never by a config.
GIVEN = {
    "optimizer": {"module", "total_steps", "precision"},
    "trainer": {"self", "logger", "callbacks", "plugins"},
}


def plain(path: str) -> Callable[..., Any]:
    """The function that takes a node of PLAIN."""
    found = PLAIN[path]
    return get_object(found) if isinstance(found, str) else found


def problems(cfg: DictConfig) -> list[str]:
    """Every problem of names, types, ranges, unknown and missing keys, one line each, in the order of the config."""
    found = trust.refusals({key: trust.child(cfg, key) for key in cfg if key != "hydra"})
    known = PLAIN | system.table_of(cfg, "PLAIN")
    for path, node in nodes(cfg):
        target = node.get("_target_") if path else None
        if target is not None and target != "builtins.dict":
            if not trust.target_allowed(target):
                continue
            try:
                signature = signatures.of(target)
            except Exception as error:
                found.append(
                    f"{path}._target_ is {target!r}, which cannot be imported ({type(error).__name__}: {error})."
                )
                continue
        elif path in known:
            function = known[path]
            signature = signatures.of(function) if isinstance(function, str) else signatures.read(function)
        else:
            continue
        found += _arguments(path=path, node=node, signature=signature)
    return list(dict.fromkeys(found))


def nodes(cfg: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every mapping of the config with its dotted path, '' for the config itself; hydra's own left out."""
    yield path, cfg
    for key in cfg:
        if OmegaConf.is_missing(cfg, key) or (not path and key == "hydra"):
            continue
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            name = str(key)
            yield from nodes(child, f"{path}.{name}" if path else name)


def _arguments(*, path: str, node: DictConfig, signature: signatures.Signature) -> list[str]:
    parameters = signature.parameters
    given = GIVEN.get(path, set())
    found = []
    for key in map(str, node):
        full = f"{path}.{key}" if path else key
        if key.startswith("_") or (not path and isinstance(node._get_node(key), DictConfig)) or key in ("hydra",):
            continue
        if OmegaConf.is_missing(node, key):
            found.append(f"{full} is missing: set {full}=VALUE.")
        elif key not in parameters or key in given:
            if not signature.open_ended and path:
                expected = [p for p in parameters if p not in given and p != "self"]
                found.append(f"{full}: {signature.name} takes no {key!r}{nearest(key, expected)}.")
        else:
            found += _value(full=full, node=node, key=key, signature=signature)
    if node.get("_partial_") or "_args_" in node:
        # The rest is given by who calls it, or by position.
        return found
    keys = list(node)  # `in` says no for a key that is ???
    for name in parameters:
        if signature.needs(name) and name not in given and name not in keys and name != "self" and path:
            found.append(f"{path}.{name} is missing: {signature.name} needs it; set {path}.{name}=VALUE.")
    return found


def _value(*, full: str, node: DictConfig, key: str, signature: signatures.Signature) -> list[str]:
    origin = _origin(node, key) or full
    if origin != full and origin.startswith(("hydra", "paths")):
        return []
    try:
        value = node[key]
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        # The key that is missing is reported where it stands.
        return []
    except OmegaConfBaseException as error:
        return [f"{full} cannot be resolved: {reason(error)}"]
    if isinstance(value, DictConfig) and "_target_" in value:
        return []
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    # A mapping that stands elsewhere is looked at where it stands.
    if not (isinstance(plain, dict) and origin != full) and (wrong := _number(plain)):
        return [f"{origin} is {plain!r}; expected {wrong}."]
    # Asked for only now: of some only the code itself can tell.
    hint = signature.hint(key)
    adapter = hints.adapter(hint)
    if adapter is None:
        return []
    # YAML has lists where Python has tuples; strict validation tells them apart and must not.
    readings = [plain, tuple(plain)] if isinstance(plain, list) else [plain]
    wanted: list[str] = []
    for reading in readings:
        try:
            adapter.validate_python(reading, strict=True)
            return []
        except ValidationError as error:
            found = [e["msg"].removeprefix("Input should be ") for e in error.errors() if e["loc"] or not wanted]
            wanted = found or wanted
    if isinstance(plain, list) and getattr(hint, "__origin__", None) is tuple:
        many = f"a list of {len(hint.__args__)} values"
        wanted = [f"{many} that are each {wanted[0]}" if len(plain) == len(hint.__args__) else many]
    return [f"{origin} is {plain!r}; expected {' or '.join(dict.fromkeys(wanted))}."]


def _number(plain: Any) -> str:
    """What is expected in the place of numbers that no computation takes, alone or in a list or mapping."""
    parts = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else [plain]
    for part in parts:
        if isinstance(part, dict | list) and (wrong := _number(part)):
            return wrong
        if isinstance(part, float) and not math.isfinite(part):
            return "a finite number"
        if isinstance(part, int) and abs(part) >= 2**63:
            return "an integer of at most 63 bits"
    return ""


def _origin(node: DictConfig, key: str) -> str | None:
    """`balance.weight` for a value that is `${balance.weight}`: the key that a user sets."""
    found = node._get_node(key)
    raw = found._value() if found is not None else None
    if isinstance(raw, str) and raw.startswith("${") and raw.endswith("}") and ":" not in raw:
        return raw[2:-1]
    return None
