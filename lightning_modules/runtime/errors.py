"""How a command that fails ends: one clear line for what a user can get wrong, and for a fault of ours where to report it.

Exit codes: 2 before anything is created (`preflight`, `nothing_made_yet`), 1 after; a traceback goes to a file, never only
to the terminal.
"""

import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from hydra._internal import utils as hydra_utils
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from lightning_modules.common.credentials import masked
from lightning_modules.common.files import private

# What a user can get wrong raises these; anything else is ours.
EXPECTED = (ValueError, OSError, InstantiationException, HydraException, CompactHydraException, OmegaConfBaseException)
# Kinds of these that no input of a user's should come to.
OURS = (UnicodeError, RecursionError)
TRACEBACK = "traceback.txt"
REPORT = "CONTRIBUTING.md says how to report it"


class RefusedError(ValueError):
    """What was asked for cannot be done, and nothing was created."""


@contextlib.contextmanager
def nothing_made_yet() -> Iterator[None]:
    """What a user can get wrong leaves with 2 while it lasts, as it does in `preflight`: RefusedError of the same words."""
    try:
        yield
    except Exception as error:
        if not is_expected(error):
            raise
        raise RefusedError(reason(error)) from error


def cause_of(error: BaseException) -> BaseException:
    """The first cause that is not Hydra's own "Error in call to target"."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def reason(error: BaseException) -> str:
    error = cause_of(error)
    return str(error) or type(error).__name__


def is_expected(error: BaseException) -> bool:
    """Whether its message is one for the user; Lightning's and torch's for want of a device or memory are."""
    error = cause_of(error)
    named = type(error).__name__ in ("MisconfigurationException", "OutOfMemoryError", "MemoryError")
    # Of the CPU's memory torch says so in a plain RuntimeError.
    named |= "can't allocate memory" in str(error)
    return named or (isinstance(error, EXPECTED) and not isinstance(error, OURS))


def leave(error: BaseException, *, folder: Path | None = None) -> None:
    """Say on one line what is wrong and exit with 1, or 2 where it was refused; HYDRA_FULL_ERROR=1 raises it instead.

    folder: of the run, or where runs lie: the traceback of a fault of ours is written there.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    told = masked(" ".join(reason(error).split()))
    if is_expected(error):
        print(f"error: {told}\n(HYDRA_FULL_ERROR=1 shows the traceback.)", file=sys.stderr)
    else:
        name = type(cause_of(error)).__name__
        line = f"This is a fault of Facet's, not of your command: {REPORT}, with {written(error, folder)}."
        print(f"error: {name}: {told}\n{line}", file=sys.stderr)
    raise SystemExit(2 if isinstance(error, RefusedError) else 1)


def written(error: BaseException, folder: Path | None) -> Path:
    """The file with the whole traceback, secrets masked: in `folder`, else among temporary files."""
    text = masked("".join(traceback.format_exception(error)))
    of_a_run = folder is not None and (folder / ".hydra").is_dir()
    name = TRACEBACK if of_a_run else f"{time.strftime('%Y%m%d-%H%M%S')}-{TRACEBACK}"
    for place in filter(None, (folder, Path(tempfile.gettempdir()))):
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            with open(place / name, "w", opener=private) as file:
                file.write(text)
            return place / name
    return Path(name)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """While it lasts Hydra raises its errors, which it would print with its own traceback and advice."""
    before = hydra_utils.run_and_report
    hydra_utils.run_and_report = lambda func: func()
    try:
        yield
    finally:
        hydra_utils.run_and_report = before
