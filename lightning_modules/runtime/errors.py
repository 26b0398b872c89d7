"""One clear error instead of a traceback, for what a user can get wrong."""

import os
import sys

from hydra.errors import InstantiationException

# What a user can get wrong raises these; anything else is ours and keeps its traceback.
EXPECTED = (ValueError, OSError, InstantiationException)


def reason(error: BaseException) -> str:
    """The message below Hydra's "Error in call to target": the first cause that is not Hydra's own."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def leave(error: BaseException) -> None:
    """Print `error: MESSAGE` and exit with 1, or with HYDRA_FULL_ERROR=1 raise it with its traceback."""
    cause = error.__cause__ if isinstance(error, InstantiationException) else error
    if os.environ.get("HYDRA_FULL_ERROR") == "1" or not isinstance(cause or error, EXPECTED):
        raise error
    print(f"error: {reason(error)}\n(HYDRA_FULL_ERROR=1 shows the traceback.)", file=sys.stderr)
    raise SystemExit(1)
