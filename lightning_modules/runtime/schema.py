"""What a config may hold, read from the code it describes: signatures, annotations and their bounds.

A node with `_target_` is checked against the signature of its target; `Count` in it is a range. Nodes
without one are checked against the functions named in `PLAIN`.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lightning_modules.common.bounds import Positive, Whole
from lightning_modules.common.choices import nearest
from lightning_modules.runtime import system, trust

CUTOFF = 0.8


def _top(
    *,
    experiment_name: str,
    run_name: str | None,
    system_name: str,
    checks: str | None,
    seed: Whole,
    threads: Whole,
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


def _logger(*, tracking_uri: str | None, artifact_location: str | None) -> None: ...


def _optimizer() -> Callable[..., Any]:
    from lightning_modules.common.optimizer import adamw_with_schedule

    return adamw_with_schedule


def _trainer() -> Callable[..., Any]:
    import pytorch_lightning as pl

    return pl.Trainer.__init__


PLAIN: dict[str, Callable[[], Callable[..., Any]]] = {
    "": lambda: _top,
    "logger": lambda: _logger,
    "optimizer": _optimizer,
    "trainer": _trainer,
}
# Given by the code that calls, never by a config.
GIVEN = {
    "optimizer": {"module", "total_steps", "precision"},
    "trainer": {"self", "logger", "callbacks", "plugins"},
}


def problems(cfg: DictConfig) -> list[str]:
    """Every problem of names, types, ranges, unknown and missing keys, one line each, in the order of the config."""
    found = trust.refusals({key: trust.child(cfg, key) for key in cfg if key != "hydra"})
    plain = {path: function() for path, function in PLAIN.items()} | system.checks_of(cfg).plain
    for path, node in nodes(cfg):
        target = node.get("_target_") if path else None
        if target is not None and target != "builtins.dict":
            if not trust.target_allowed(target):
                continue
            try:
                function = get_object(target)
            except Exception as error:
                found.append(
                    f"{path}._target_ is {target!r}, which cannot be imported ({type(error).__name__}: {error})."
                )
                continue
        elif path in plain:
            function = plain[path]
        else:
            continue
        found += _arguments(path=path, node=node, function=function)
    return list(dict.fromkeys(found))


def nodes(cfg: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every mapping of the config with its dotted path, '' for the config itself; hydra's own left out."""
    yield path, cfg
    for key in cfg:
        if OmegaConf.is_missing(cfg, key) or (not path and key == "hydra"):
            continue
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from nodes(child, f"{path}.{key}" if path else str(key))


def _arguments(*, path: str, node: DictConfig, function: Callable[..., Any]) -> list[str]:
    called = function.__init__ if inspect.isclass(function) else function
    parameters = dict(inspect.signature(function).parameters)
    told = hints(inspect.unwrap(called))
    given = GIVEN.get(path, set())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    found = []
    for key in node:
        full = f"{path}.{key}" if path else str(key)
        if key.startswith("_") or (not path and isinstance(node._get_node(key), DictConfig)) or key in ("hydra",):
            continue
        if OmegaConf.is_missing(node, key):
            found.append(f"{full} is missing: set {full}=VALUE.")
        elif key not in parameters or key in given:
            if not open_ended and path:
                expected = [p for p in parameters if p not in given and p != "self"]
                found.append(f"{full}: {target_name(function)} takes no {key!r}{nearest(key, expected)}.")
        else:
            found += _value(full=full, node=node, key=key, hint=told.get(key, Any))
    if node.get("_partial_") or "_args_" in node:
        # The rest is given by who calls it, or by position.
        return found
    keys = list(node)  # `in` says no for a key that is ???
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.KEYWORD_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        if required and name not in given and name not in keys and name != "self" and path:
            found.append(f"{path}.{name} is missing: {target_name(function)} needs it; set {path}.{name}=VALUE.")
    return found


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Type hints by parameter; one that names what only a type checker imports says nothing, and the others stay."""
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:
        found = {}
        for name, hint in inspect.get_annotations(function).items():
            with contextlib.suppress(NameError):
                found[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
        return found


def _value(*, full: str, node: DictConfig, key: str, hint: Any) -> list[str]:
    origin = _origin(node, key) or full
    if origin != full and origin.startswith(("hydra", "paths")):
        return []
    try:
        value = node[key]
    except (MissingMandatoryValue, InterpolationToMissingValueError):
        # The key that is missing is reported where it stands.
        return []
    except OmegaConfBaseException as error:
        return [f"{full} cannot be resolved: {str(error).splitlines()[0]}"]
    if isinstance(value, DictConfig) and "_target_" in value:
        return []
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # an annotation that pydantic cannot read is no reason to stop a run
        return []
    # YAML has lists where Python has tuples; strict validation tells them apart and must not.
    readings = [plain, tuple(plain)] if isinstance(plain, list) else [plain]
    wanted = []
    for reading in readings:
        try:
            adapter.validate_python(reading, strict=True)
            return []
        except ValidationError as error:
            wanted = [e["msg"].removeprefix("Input should be ") for e in error.errors()]
    if isinstance(plain, list) and getattr(hint, "__origin__", None) is tuple:
        wanted = [
            f"a list of {len(hint.__args__)} values that are each {wanted[0]}"
            if len(plain) == len(hint.__args__)
            else f"a list of {len(hint.__args__)} values"
        ]
    return [f"{origin} is {plain!r}; expected {' or '.join(dict.fromkeys(wanted))}."]


def _origin(node: DictConfig, key: str) -> str | None:
    """`balance.weight` for a value that is `${balance.weight}`: the key that a user sets."""
    raw = node._get_node(key)._value() if node._get_node(key) is not None else None
    if isinstance(raw, str) and raw.startswith("${") and raw.endswith("}") and ":" not in raw:
        return raw[2:-1]
    return None


def target_name(function: Callable[..., Any]) -> str:
    if function.__qualname__ == "Trainer.__init__":
        return "pytorch_lightning.Trainer"
    return f"{function.__module__}.{function.__qualname__}"
