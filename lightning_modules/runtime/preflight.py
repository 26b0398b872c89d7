"""Every error of a command line and its config in one message, before anything is created.

Composing the config through Hydra stops at the first error and, for a misspelt key, advises to add it with `+`; here all
are collected and the nearest right key is named.
"""

import contextlib
import difflib
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lightning_modules.common.choices import nearest
from lightning_modules.runtime import compatibility, schema
from lightning_modules.runtime.config import roots
from lightning_modules.runtime.trust import CONF, PACKAGES

# Alternatives of one sweep that are checked; the rest are like them.
MOST = 64


def check(argv: list[str]) -> DictConfig | None:
    """The composed config of the (first) job with hydra's node, or None where Hydra only shows something.

    Prints all errors and exits with 2 when there are any.
    """
    given = get_args_parser().parse_args(argv)
    if (
        given.help
        or given.hydra_help
        or given.cfg
        or given.info is not None
        or given.shell_completion
        or given.config_name
    ):
        return None
    try:
        errors, cfg = examine(given.overrides)
    except ValueError as error:  # of FACET_PACKAGES
        errors, cfg = [str(error)], None
    if given.config_dir:
        errors.append(
            f"--config-dir={given.config_dir}: jobs of a sweep and replays would not see it. Put the options into the "
            f"folder conf of a package of yours and name the package in the environment variable {PACKAGES}."
        )
    if errors:
        lines = "\n".join(f"  {error}" for error in errors)
        many = f"{len(errors)} errors" if len(errors) > 1 else "error"
        print(f"{many} in the command line or config; nothing was created:\n{lines}", file=sys.stderr)
        tell_the_sweep(given.overrides, "; ".join(errors))
        sys.exit(2)
    return cfg


def tell_the_sweep(overrides: list[str], message: str) -> None:
    """A job of a sweep has a folder already; its reason is read from there."""
    folder = next((o.partition("=")[2] for o in overrides if o.startswith("hydra.run.dir=")), None)
    if "FACET_SWEEP" in os.environ and folder is not None:
        Path(folder, "failure.txt").write_text(message)


def examine(overrides: list[str]) -> tuple[list[str], DictConfig | None]:
    """(errors, config of the first job). The config is None when it could not be composed."""
    errors, parsed = _parse(overrides)
    with _hydra():
        known, groups = _groups_of(parsed, errors)
        if known is None:
            return errors, None
        wrong = {id(o): message for o in parsed if (message := _unknown(o, known))}
        errors += wrong.values()
        # What is wrong is left out, so that the rest can be looked at in the same go.
        right = [*groups, *(o for o in parsed if not _is_group(o) and id(o) not in wrong)]
        first = None
        for job in _jobs(right):
            cfg = _compose_strings(job, errors)
            first = first or cfg
            if cfg is not None:
                errors += [e for e in _content(cfg) if e not in errors]
    return list(dict.fromkeys(errors)), first


@contextlib.contextmanager
def as_running(cfg: DictConfig) -> Iterator[None]:
    """Lets `${hydra:...}` resolve as it will in the run, whose folder is not known yet."""
    with read_write(cfg.hydra), open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(Path(cfg.paths.runs) / "preflight")
    HydraConfig.instance().set_config(cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = None


def folder(cfg: DictConfig) -> Path:
    """Where Hydra will put the run that `check` composed."""
    with as_running(cfg):
        return Path(cfg.hydra.run.dir).absolute()


def _content(cfg: DictConfig) -> list[str]:
    with as_running(cfg):
        return schema.problems(cfg) + compatibility.problems(cfg)


def _parse(overrides: list[str]) -> tuple[list[str], list[Override]]:
    parser, errors, parsed = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except Exception as error:
            hint = "expected KEY=VALUE" if "=" not in text else str(error).splitlines()[0]
            errors.append(f"{text}: cannot be read; {hint}.")
    given = defaultdict(list)
    for override in parsed:
        given[override.key_or_group, override.package].append(override)
    for (key, package), same in given.items():
        # Lightning tells the other ranks of a sweep's job its folder a second time.
        if len(same) > 1 and not (key.startswith("hydra.") and "LOCAL_RANK" in os.environ):
            name = f"{key}@{package}" if package else key
            both = " and ".join(map(_line, same))
            errors.append(f"{name} is given {len(same)} times, {both}; expected once (values of a sweep: {name}=A,B).")
    return errors, [same[0] for same in given.values()]


def _hydra() -> Any:
    GlobalHydra.instance().clear()
    return initialize_config_dir(str(CONF), version_base="1.3", job_name="main")


def _is_group(override: Override) -> bool:
    key = override.key_or_group
    return key.startswith("hydra/") or any((root / key).is_dir() for root in roots())


def _options(group: str) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group)


def _groups_of(parsed: list[Override], errors: list[str]) -> tuple[DictConfig | None, list[Override]]:
    """The config that the groups of the command line give, without its values; the groups whose options are there."""
    texts, right = [], []
    for override in filter(_is_group, parsed):
        options = _options(override.key_or_group)
        values = [v.strip("'\"") for v in _alternatives(override)] if override.value_type else []
        wrong = [v for v in values if v not in options and v != "null" and f"{v}.yaml" not in options]
        nested = [v for v in wrong if _is_nested_option(override.key_or_group, v)]
        errors += [_no_option(override.key_or_group, v, options) for v in wrong if v not in nested]
        if wrong == nested:
            right.append(override)
            # `backbone@source_backbone=hub` is an option of the group that stands at another key.
            at = f"@{override.package}" if override.package else ""
            texts.append(f"{override.key_or_group}{at}={values[0]}" if values else _line(override))
    return _compose_strings(texts, errors), right


def _is_nested_option(group: str, value: str) -> bool:
    """`experiment=moe/scope` is the option `scope` of the group `experiment/moe`."""
    folder, _, name = value.rpartition("/")
    return bool(folder) and name in _options(f"{group}/{folder}")


def _no_option(group: str, value: str, options: list[str]) -> str:
    files = [p for root in roots() for p in (root / group).glob("*/*.yaml")]
    nested = [f"{p.parent.name}/{p.stem}" for p in files if p.parent.name != "parts"]
    words = [o for o in [*options, *nested] if o != "parts"]
    return f"{group}={value}: no such option{nearest(value, words)}; there are {', '.join(sorted(words))}."


def _compose_strings(texts: list[str], errors: list[str]) -> DictConfig | None:
    try:
        return compose("config", overrides=texts, return_hydra_config=True)
    except Exception as error:
        errors.append(" ".join(str(error).split("\nfull_key")[0].split()))
        return None


def _unknown(override: Override, known: DictConfig) -> str | None:
    """What is wrong with the key of a value override, if anything."""
    key = override.key_or_group
    if _is_group(override) or key.startswith("hydra."):
        return None
    exists = OmegaConf.select(known, key, throw_on_missing=False) is not None or key in set(_paths(known))
    if override.is_add():
        top = key.partition(".")[0]
        return None if top in known else f"+{key}: there is no {top!r} to add to{_nearest_key(top, known)}."
    if exists:
        return None
    group = key.partition(".")[0]
    # `balance.scope=micro` asks for an option of the group, `model.pretrained=NAME` for a key of one.
    for value in (*_alternatives(override), key.rpartition(".")[2]):
        if (CONF / group).is_dir() and value in _options(group):
            return f"{key}: no such key; the nearest is '{group}={value}'."
    return f"{key}: no such key{_nearest_key(key, known)}."


def _nearest_key(key: str, known: DictConfig) -> str:
    paths = list(_paths(known))
    near = difflib.get_close_matches(key, paths, n=1, cutoff=schema.CUTOFF)
    if not near:
        last = key.rpartition(".")[2]
        by_name = {path.rpartition(".")[2]: path for path in reversed(paths)}
        near = [by_name[n] for n in difflib.get_close_matches(last, list(by_name), n=1, cutoff=schema.CUTOFF)]
    groups = [] if "." in key else difflib.get_close_matches(key, _groups(), n=1, cutoff=0.6)
    if groups or near:
        return f"; the nearest is {(groups or near)[0]!r}"
    parent = key.rpartition(".")[0]
    beside = [path.rpartition(".")[2] for path in paths if parent and path.rpartition(".")[0] == parent]
    return f"; {parent} has {', '.join(beside)}" if beside else ""


def _groups() -> list[str]:
    return [p.name for root in roots() for p in root.iterdir() if p.is_dir()]


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = prefix + str(key)
        if path == "hydra":
            continue
        yield path
        child = node._get_node(key)
        if (
            isinstance(child, DictConfig)
            and not child._is_none()
            and not child._is_missing()
            and not child._is_interpolation()
        ):
            yield from _paths(child, f"{path}.")


def _alternatives(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if override.is_discrete_sweep():
        return list(override.sweep_string_iterator())
    return []


def _jobs(parsed: list[Override]) -> Iterator[list[str]]:
    """The first job, and for every other alternative of each override the job that differs in it alone."""
    # A continuous interval of a hyperparameter search is left to the search.
    fixed = [o for o in parsed if not o.is_sweep_override() or o.is_discrete_sweep()]
    choices = [_texts(o) for o in fixed]
    first = [texts[0] for texts in choices]
    yield first
    others = [(index, text) for index, texts in enumerate(choices) for text in texts[1:]]
    for index, text in others[:MOST]:
        yield [text if i == index else t for i, t in enumerate(first)]


def every_job(argv: list[str]) -> Iterator[tuple[str, DictConfig]]:
    """(what sets it apart, resolvable config) of every job of a command line, an interval of a search at no value."""
    parsed = list(_parse(get_args_parser().parse_args(argv).overrides)[1])
    fixed = [o for o in parsed if not o.is_sweep_override() or o.is_discrete_sweep()]
    choices = [_texts(o) for o in fixed]
    for texts in itertools.product(*choices):
        apart = [t for t, c in zip(texts, choices, strict=True) if len(c) > 1]
        with _hydra():
            cfg = compose("config", overrides=list(texts), return_hydra_config=True)
        with as_running(cfg):
            yield " ".join(apart), cfg


def _line(override: Override) -> str:
    """As it was typed."""
    assert override.input_line is not None
    return override.input_line


def _texts(override: Override) -> list[str]:
    # As it was typed: the run's folder is named by a digest of it.
    values = _alternatives(override) if override.is_sweep_override() else []
    line = _line(override)
    return [f"{line.split('=')[0]}={value}" for value in values] or [line]


def is_multirun(argv: list[str]) -> bool:
    return get_args_parser().parse_args(argv).multirun
