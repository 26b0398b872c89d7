"""One line to whoever watches the terminal."""

import sys

from rich.console import Console
from rich.file_proxy import FileProxy


def say(text: str) -> None:
    if isinstance(sys.stderr, FileProxy):
        # A bar is live, and draws itself anew below what goes through this file; a console would write past it.
        print(text, file=sys.stderr)
        return
    # A console of its own each time: stderr is not the same during a run as at import.
    Console(stderr=True).print(text, soft_wrap=True, markup=False)


def reason(error: BaseException) -> str:
    """The first line of what an error says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
