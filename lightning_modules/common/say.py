"""One line to whoever watches the terminal."""

from rich.console import Console


def say(text: str) -> None:
    # A console of its own each time: stderr is not the same during a run as at import.
    Console(stderr=True).print(text, soft_wrap=True, markup=False)
