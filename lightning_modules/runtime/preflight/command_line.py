"""What is wrong with a command line by itself: options and keys that are not there, given twice, or no sweep at all.

It needs the YAML tree alone. Composing the config through Hydra stops at the first error and, for a misspelt key, advises to
add it with `+`; here all are collected and the nearest right key is named.
"""

import difflib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf

from lightning_modules.common.choices import nearest
from lightning_modules.common.say import reason
from lightning_modules.runtime import schema
from lightning_modules.runtime.config import roots
from lightning_modules.runtime.preflight.composing import composed, options
from lightning_modules.runtime.trust import CONF

# Alternatives of one sweep that are checked; the rest are like them.
MOST = 64
FEW = 16  # options that a message lists; of more, those with the word in them
# Values of one key that a sweep may take; `range(1,1e9)` is a slip.
VALUES = 10_000


def parse(overrides: list[str]) -> tuple[list[str], list[Override]]:
    """(errors, the overrides that can be read, each key once)."""
    parser, errors, parsed = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except Exception as error:
            hint = "expected KEY=VALUE" if "=" not in text else reason(error)
            errors.append(f"{text}: cannot be read; {hint}.")
    given = defaultdict(list)
    for override in parsed:
        given[override.key_or_group, override.package].append(override)
    for (key, package), same in given.items():
        # Lightning tells the other ranks of a sweep's job its folder a second time.
        if len(same) > 1 and not (key.startswith("hydra.") and "LOCAL_RANK" in os.environ):
            name = f"{key}@{package}" if package else key
            both = " and ".join(map(as_typed, same))
            errors.append(f"{name} is given {len(same)} times, {both}; expected once (values of a sweep: {name}=A,B).")
    return errors, [same[0] for same in given.values()]


def sweeps(parsed: list[Override], *, multirun: bool, search: bool) -> tuple[list[str], list[Override]]:
    """(errors, overrides without those of them): sweeps that have no value, too many, or nobody who would run them.

    multirun: whether several values of a key are taken at all. search: whether an interval is.
    """
    errors, right = [], []
    for override in parsed:
        if not override.is_sweep_override():
            wrong = ""
        elif not multirun and not override.key_or_group.startswith("hydra."):
            wrong = "has several values: -m before it runs a sweep over them; a value with a comma stands in '...'"
        elif isinstance(override.value(), Glob):
            wrong = "" if alternatives(override) else f"finds none of {_words(override.key_or_group)}"
        elif not override.is_discrete_sweep():
            wrong = "" if search else "is an interval, which a grid cannot take; hydra/sweeper=search searches it"
        else:
            count = sum(1 for _ in itertools.islice(override.sweep_string_iterator(), VALUES + 1))
            wrong = "" if count else "has no value"
            wrong = f"has more than {VALUES:,} values" if count > VALUES else wrong
        if wrong:
            errors.append(f"{as_typed(override)} {wrong}.")
        else:
            right.append(override)
    return errors, right


def _words(group: str) -> str:
    found = [o for o in options(group) if o != "parts"] if is_group_name(group) else []
    return ", ".join(sorted(found)) or f"the options of {group}, which is no group"


def is_group_name(key: str) -> bool:
    return key.startswith("hydra/") or any((root / key).is_dir() for root in roots())


def is_group(override: Override) -> bool:
    return is_group_name(override.key_or_group)


def groups_of(parsed: list[Override], errors: list[str]) -> tuple[DictConfig | None, list[Override]]:
    """The config that the groups of the command line give, without its values; the groups whose options are there."""
    lines, right = [], []
    for override in filter(is_group, parsed):
        there = options(override.key_or_group)
        values = [v.strip("'\"") for v in alternatives(override)] if override.value_type else []
        wrong = [v for v in values if v not in there and v != "null" and f"{v}.yaml" not in there]
        nested = [v for v in wrong if _is_nested_option(override.key_or_group, v)]
        errors += [_no_option(override.key_or_group, v, there) for v in wrong if v not in nested]
        if wrong == nested:
            right.append(override)
            # `backbone@source_backbone=hub` is an option of the group that stands at another key.
            at = f"@{override.package}" if override.package else ""
            sign = "+" if override.is_add() else ""
            lines.append(f"{sign}{override.key_or_group}{at}={values[0]}" if values else as_typed(override))
    known = composed(lines, errors)
    nulls = [line for line in lines if line.endswith("=null")]
    if known is None and nulls and "Got NoneType" in errors[-1]:
        errors[-1] = f"{' '.join(nulls)}: one of these groups is always there; expected one of its options."
    added = [line for line in lines if line.startswith("+") and not line.startswith("++")]
    if known is None and added and "Multiple values for" in errors[-1]:
        errors[-1] = f"{added[0]}: the group is there already; expected {added[0][1:]}."
    return known, right


def _is_nested_option(group: str, value: str) -> bool:
    """`experiment=moe/scope` is the option `scope` of the group `experiment/moe`."""
    folder, _, name = value.rpartition("/")
    return bool(folder) and name in options(f"{group}/{folder}")


def _no_option(group: str, value: str, there: list[str]) -> str:
    files = [p for root in roots() for p in (root / group).glob("*/*.yaml")]
    nested = [f"{p.parent.name}/{p.stem}" for p in files if p.parent.name != "parts"]
    words = [o for o in [*there, *nested] if o != "parts"]
    alike = sorted(word for word in words if len(words) <= FEW or str(value).lower() in word)
    listed = f"; there are {', '.join(alike)}" if alike else ""
    more = f"; --help names all {len(words)}" if len(alike) < len(words) else ""
    return f"{group}={value}: no such option{nearest(value, words)}{listed}{more}."


def unknown(override: Override, known: DictConfig) -> str | None:
    """What is wrong with the key of a value override, if anything."""
    key = override.key_or_group
    if is_group(override) or (override.is_delete() and key.startswith("hydra.")):
        return None
    if key.startswith("hydra."):
        paths = list(_paths(known.hydra, "hydra."))
        there = key in paths or (override.is_add() and key.split(".")[1] in known.hydra)
        return None if there else f"{key}: no such key{nearest(key, paths)}."
    # An interpolation of Hydra's own has no value before the run.
    exists = key in set(_paths(known)) or OmegaConf.select(known, key, throw_on_missing=False) is not None
    if override.is_add():
        top = key.partition(".")[0]
        return None if top in known else f"+{key}: there is no {top!r} to add to{_nearest_key(top, known)}."
    if exists:
        return _lacking(override, known)
    group = key.partition(".")[0]
    # `balance.scope=micro` asks for an option of the group, `model.pretrained=NAME` for a key of one.
    for value in (*alternatives(override), key.rpartition(".")[2]):
        if (CONF / group).is_dir() and value in options(group):
            return f"{key}: no such key; the nearest is '{group}={value}'."
    return f"{key}: no such key{_nearest_key(key, known)}."


def _lacking(override: Override, known: DictConfig) -> str | None:
    """A mapping is merged into the one that is there, which takes no other keys."""
    value = override.value()
    if override.is_sweep_override() or not isinstance(value, dict):
        return None
    there = OmegaConf.select(known, override.key_or_group, throw_on_missing=False)
    if not isinstance(there, DictConfig) or not len(there):
        return None
    key, words = override.key_or_group, [str(name) for name in there]
    new = [str(getattr(name, "text", name)) for name in value if str(name) not in words]
    if not new:
        return None
    near = nearest(new[0], words)
    return f"{key}: it has no {new[0]!r}{near}; there are {', '.join(words)}, and +{key}.{new[0]}=VALUE adds another."


def _nearest_key(key: str, known: DictConfig) -> str:
    paths = list(_paths(known))
    near = difflib.get_close_matches(key, paths, n=1, cutoff=schema.CUTOFF)
    if not near:
        last = key.rpartition(".")[2]
        by_name = {path.rpartition(".")[2]: path for path in reversed(paths)}
        near = [by_name[n] for n in difflib.get_close_matches(last, list(by_name), n=1, cutoff=schema.CUTOFF)]
    folders = [p.name for root in roots() for p in root.iterdir() if p.is_dir()]
    groups = [] if "." in key else difflib.get_close_matches(key, folders, n=1, cutoff=0.6)
    if groups or near:
        return f"; the nearest is {(groups or near)[0]!r}"
    parent = key.rpartition(".")[0]
    beside = [path.rpartition(".")[2] for path in paths if parent and path.rpartition(".")[0] == parent]
    return f"; {parent} has {', '.join(beside)}" if beside else ""


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in node:
        path = prefix + str(key)
        if path == "hydra":
            continue
        yield path
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from _paths(child, f"{path}.")


def alternatives(override: Override) -> list[str]:
    """The values of an override as text; none of an interval."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    value = override.value()
    if isinstance(value, Glob):
        return sorted(value.filter([o for o in options(override.key_or_group) if o != "parts"]))
    return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []


def jobs(parsed: list[Override]) -> Iterator[list[str]]:
    """The first job, and for every other alternative of each override the job that differs in it alone."""
    choices = list(map(texts, fixed(parsed)))
    first = [values[0] for values in choices]
    yield first
    others = [(index, text) for index, values in enumerate(choices) for text in values[1:]]
    for index, text in others[:MOST]:
        yield [text if i == index else t for i, t in enumerate(first)]


def fixed(parsed: list[Override]) -> list[Override]:
    """Without the continuous intervals of a hyperparameter search, which are left to the search."""
    return [o for o in parsed if not o.is_sweep_override() or o.is_discrete_sweep() or isinstance(o.value(), Glob)]


def as_typed(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def texts(override: Override) -> list[str]:
    # As it was typed: the run's folder is named by a digest of it.
    values = alternatives(override) if override.is_sweep_override() else []
    typed = as_typed(override)
    return [f"{typed.split('=')[0]}={value}" for value in values] or [typed]


def told_folder(overrides: list[str]) -> Path | None:
    """The folder that a sweep gives its job."""
    given = next((o.partition("=")[2] for o in overrides if o.startswith("hydra.run.dir=")), None)
    return Path(given) if given else None
