"""Every error of a command in one message, before anything is created; split by what has to be known to find it.

`command_line`: options and keys (the YAML tree alone). `names`: choices, types, ranges (the code that takes them).
`places`: folders, devices, tracking addresses (this machine). `building`: what the constructors say, of all that costs
nothing to make. A system's own `checks.py` has a part in the last three.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from lightning_modules.common import credentials
from lightning_modules.common.choices import nearest
from lightning_modules.runtime import system
from lightning_modules.runtime.preflight import building, command_line, names, places
from lightning_modules.runtime.preflight.composing import as_running, composed, composing
from lightning_modules.runtime.trust import PACKAGES


def check(argv: list[str]) -> DictConfig | None:
    """The composed config of the (first) job with hydra's node, or None where Hydra only shows something.

    Prints all errors and exits with 2 when there are any.
    """
    given = read(argv)
    if given.help or given.hydra_help or given.info is not None or given.shell_completion:
        return None
    if given.cfg:
        # A value may be missing in what is only shown; a key may not be wrong.
        if errors := list(dict.fromkeys(keys(given.overrides, multirun=True)[0])):
            refuse(errors, overrides=given.overrides)
        return None
    errors = list(_flags(given))
    try:
        found, cfg = examine(given.overrides, multirun=given.multirun)
    except ValueError as error:  # of FACET_PACKAGES
        found, cfg = [str(error)], None
    errors += found
    if errors:
        refuse(errors, overrides=given.overrides)
    return cfg


def take(argv: list[str]) -> tuple[list[str], DictConfig | None]:
    """(the command line without the password of its tracking address, what `check` makes of it)."""
    try:
        argv = credentials.taken(argv)
    except ValueError as error:
        refuse([str(error)], overrides=argv)
    cfg = check(argv)
    given = str(cfg.logger.tracking_uri) if cfg is not None and cfg.logger is not None else ""
    # It came from the environment or a file of the user's; Hydra writes what it composes into the run's folder.
    if (shown := credentials.keep(given)) != given:
        told = [a for a in argv if a.lstrip("+").partition("=")[0] != credentials.KEY]
        argv = [*told, f"{credentials.KEY}='{shown}'"]
        cfg = check(argv)
    return argv, cfg


def read(argv: list[str]) -> argparse.Namespace:
    """Hydra's reading of its flags."""
    parser = get_args_parser()
    flags = [name for action in parser._actions for name in action.option_strings]

    def error(message: str) -> NoReturn:
        unread = [word for word in message.partition("unrecognized arguments: ")[2].split() if word in argv]
        if not unread:
            refuse([f"{message}."], overrides=[])
        told = [f"{w}: no such flag{nearest(w, flags)}." for w in unread if w.startswith("-")]
        told += [f"{w} stands behind a flag, and others before it; flags stand first." for w in unread if w[0] != "-"]
        refuse(told, overrides=[])

    parser.error = error  # type: ignore[method-assign]
    return parser.parse_args(argv)


def refuse(errors: list[str], *, overrides: list[str]) -> NoReturn:
    """Print them and leave with 2."""
    errors = [credentials.masked(" ".join(error.split())) for error in errors]
    lines = "\n".join(f"  {error}" for error in errors)
    many = f"{len(errors)} errors" if len(errors) > 1 else "error"
    print(f"{many} in the command line or config; nothing was created:\n{lines}", file=sys.stderr)
    # A job of a sweep has a folder already; its reason is read from there.
    told = command_line.told_folder(overrides)
    if "FACET_SWEEP" in os.environ and told is not None:
        (told / "failure.txt").write_text("; ".join(errors))
    sys.exit(2)


def _flags(given: argparse.Namespace) -> Iterator[str]:
    """Hydra's own flags that jobs of a sweep and replays would not see, and a group without a value."""
    instead = (
        "jobs of a sweep and replays would not see it. Put the options into the folder conf of a package of yours and name "
        f"the package in the environment variable {PACKAGES}."
    )
    for flag in ("config_dir", "config_path", "config_name"):
        if value := getattr(given, flag):
            yield f"--{flag.replace('_', '-')}={value}: {instead}"
    if package := given.package:
        yield f"--package={package} goes with --cfg only."


def keys(overrides: list[str], *, multirun: bool) -> tuple[list[str], list[Override] | None]:
    """(errors of options and keys, the overrides without those). None where the groups do not compose."""
    errors, parsed = command_line.parse(overrides)
    given = {o.key_or_group: o for o in parsed if not o.is_delete()}
    plan = "plan" in given and command_line.as_typed(given["plan"]).lower() == "plan=true"
    with composing():
        wrong, parsed = command_line.sweeps(parsed, multirun=multirun or plan, search="hydra/sweeper" in given)
        errors += wrong
        known, groups = command_line.groups_of(parsed, errors)
        if known is None:
            return errors, None
        unknown = {id(o): message for o in parsed if (message := command_line.unknown(o, known))}
        errors += unknown.values()
        # What is wrong is left out, so that the rest can be looked at in the same go.
        return errors, [*groups, *(o for o in parsed if not command_line.is_group(o) and id(o) not in unknown)]


def examine(overrides: list[str], *, multirun: bool = True) -> tuple[list[str], DictConfig | None]:
    """(errors, config of the first job). The config is None when it could not be composed."""
    errors, right = keys(overrides, multirun=multirun)
    if right is None:
        return errors, None
    with composing():
        first = None
        for job in command_line.jobs(right):
            cfg = composed(job, errors)
            first = first or cfg
            if cfg is not None:
                errors += [e for e in _content(cfg, told=errors) if e not in errors]
    return list(dict.fromkeys(errors)), first


def _content(cfg: DictConfig, *, told: list[str]) -> list[str]:
    if wrong := names.missing_parts(cfg) or system.elsewhere(cfg):
        return wrong
    with as_running(cfg):
        found = names.problems(cfg)
        found += places.problems(cfg)
        return found + building.problems(cfg, told=[*told, *found])


def folder(cfg: DictConfig) -> Path:
    """Where Hydra will put the run that `check` composed."""
    with as_running(cfg):
        return Path(cfg.hydra.run.dir).absolute()


def every_job(argv: list[str]) -> Iterator[tuple[str, DictConfig]]:
    """(what sets it apart, resolvable config) of every job of a command line, an interval of a search at no value."""
    with composing():
        parsed = command_line.parse(read(argv).overrides)[1]
        choices = [command_line.texts(o) for o in command_line.fixed(parsed)]
    for texts in itertools.product(*choices):
        apart = [t for t, c in zip(texts, choices, strict=True) if len(c) > 1]
        with composing():
            cfg = compose("config", overrides=list(texts), return_hydra_config=True)
        with as_running(cfg):
            yield " ".join(apart), cfg
