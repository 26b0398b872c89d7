"""Hydra composes a command's config four times: what it has made is kept and copied, and the files are read by libyaml.

Kept are the last few configs, and, for others that choose the same options, what these give before any value is set.

It replaces functions inside Hydra 1.3 and OmegaConf 2.3 by others with the same answers; where an update has moved one of
them, composing is as slow as before.
"""

import copy
import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import yaml

FEW = 8


def hasten() -> None:
    """For this process; twice is as once."""
    from hydra._internal import config_loader_impl, config_repository
    from omegaconf import _utils, base

    if getattr(base, "parse", None) is None or not hasattr(_utils, "get_yaml_loader"):
        return
    if getattr(_utils.get_yaml_loader, "cache_info", None) is not None:
        return
    if hasattr(yaml, "CSafeLoader"):
        _utils.get_yaml_loader = functools.cache(functools.partial(_by_libyaml, _utils.get_yaml_loader()))
    # Trees are read and never changed. An interpolation is parsed wherever it is copied to, some of them forty times.
    base.parse = functools.lru_cache(maxsize=4096)(base.parse)
    config_repository.CachingConfigRepository.__init__ = _beside  # type: ignore[method-assign]
    loader = config_loader_impl.ConfigLoaderImpl
    loader.load_configuration = _once(loader.load_configuration)  # type: ignore[method-assign]
    config_loader_impl.create_defaults_list = _chosen_once(config_loader_impl.create_defaults_list)
    loader._compose_config_from_defaults_list = _merged_once(loader._compose_config_from_defaults_list)  # type: ignore[method-assign]


def _by_libyaml(slow: Any) -> Any:
    """OmegaConf's own loader, with its types and its refusal of a key that stands twice."""

    parser: Any = vars(sys.modules["yaml.cyaml"])["CParser"]

    class Loader(parser, slow):
        def __init__(self, stream: Any) -> None:
            parser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


def _beside(self: Any, delegate: Any) -> None:
    """Its sources may be set anew (`hydra.searchpath`), which leaves the delegate's own list as it is: no deep copy."""
    self.delegate, self.cache = copy.copy(delegate), {}


def _once(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load`, whose last few configs are kept: deep copies of one take a tenth of the time."""
    from hydra.core.utils import JobRuntime
    from hydra.types import RunMode

    kept: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(load)
    def loaded(
        self: Any, config_name: str, overrides: list[str], run_mode: RunMode, from_shell: bool = True, **checks: bool
    ) -> Any:
        key = (config_name, *overrides, _sources(self), os.getcwd(), JobRuntime().get("name"))
        if key in kept:
            return copy.deepcopy(kept[key])
        found = load(self, config_name, overrides, run_mode, from_shell, **checks)
        # Without a default left open or an override that sweeps, which a single run refuses, all ways compose the same.
        if run_mode is RunMode.RUN and checks.get("validate_sweep_overrides", True):
            _keep(kept, key, copy.deepcopy(found))
        return found

    return loaded


def _chosen_once(create: Callable[..., Any]) -> Callable[..., Any]:
    """`create`, which chooses the files of a config: the values of an override have no part in it, its options do."""
    kept: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(create)
    def created(repo: Any, config_name: str, overrides_list: list[Any], **settings: bool) -> Any:
        single = [o for o in overrides_list if not o.is_sweep_override()]
        options = [o for o in single if not isinstance(o.value(), dict) and repo.group_exists(o.key_or_group)]
        lines = [o.input_line for o in options]
        key = (config_name, *lines, _sources(repo), *settings.items())
        if key not in kept:
            _keep(kept, key, create(repo=repo, config_name=config_name, overrides_list=overrides_list, **settings))
        return dataclasses.replace(kept[key], config_overrides=[o for o in single if o.input_line not in lines])

    return created


def _merged_once(merge: Callable[..., Any]) -> Callable[..., Any]:
    """`merge`, which makes one config of the files of a list."""
    kept: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(merge)
    def merged(self: Any, defaults: list[Any], repo: Any) -> Any:
        key = (*map(dataclasses.astuple, defaults), _sources(repo))
        if key not in kept:
            _keep(kept, key, merge(self, defaults=defaults, repo=repo))
        return copy.deepcopy(kept[key])

    return merged


def _sources(of: Any) -> tuple[Any, ...]:
    return tuple((source.provider, source.full_path()) for source in of.get_sources())


def _keep(kept: dict[Any, Any], key: Any, found: Any) -> None:
    while len(kept) >= FEW:
        kept.pop(next(iter(kept)))
    kept[key] = found
