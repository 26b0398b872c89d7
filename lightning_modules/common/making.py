"""What is made inside a run, a backbone or a prompt, told to whoever watches: to show it, to time it, to have it elsewhere.

What makes things knows nobody who watches; the runtime sets the watcher. Nobody watching is the plain `Watcher`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lightning_modules.common.say import say

MANIFEST = "manifest.json"


def is_kept(place: Path) -> bool:
    return (place / MANIFEST).is_file()


@dataclass(frozen=True)
class Thing:
    """One thing that a run needs made.

    Args:
        kind: `backbone`, `prompt`, `arm`: what is counted together, and takes about equally long.
        name: its curve in MLflow; things of one name follow one another there. detail: what tells those apart.
        steps: of its training. why: in half a sentence, for the terminal.
        place: the folder it is kept in; None for what is trained and not kept.
        ask: gets it as the run will, for `plan=true`; None where it has been got when the study was built.
        together: how many like it are made by one training, at once.
    """

    kind: str
    name: str
    detail: str = ""
    steps: int = 0
    why: str = ""
    place: Path | None = None
    ask: Callable[[], Any] | None = None
    together: int = 1

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.kind, self.name, self.detail, self.place.name if self.place else ""

    @property
    def label(self) -> str:
        return f"{self.name}, {self.detail}" if self.detail else self.name

    @property
    def is_kept(self) -> bool:
        return self.place is not None and is_kept(self.place)


class Watcher:
    """Watches nothing, and says what has to be said. cap: most steps of a training, None for all of them."""

    cap: int | None = None

    def expects(self, things: Sequence[Thing]) -> None:
        """All that the run is going to ask for."""

    def close(self) -> None:
        """It watches no longer: a thread that spoke for it would speak into whatever comes next."""

    def place(self, place: Path) -> Path:
        """Where a thing is kept that is called for at `place`."""
        return place

    def found(self, thing: Thing) -> None:
        """It was there."""

    @contextlib.contextmanager
    def making(self, thing: Thing) -> Iterator[None]:
        """It is made while this lasts; a thing may need another."""
        yield

    def trains(self, steps: int) -> None:
        """A training of so many steps begins; a thing may take several, one after another."""

    def step(self, step: int, loss: Any) -> None:
        """An optimizer step of that training is done."""

    def read(self, name: str, lines: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """What was taken of the data `name` and what left out: sentences, and a table's rows; again when more is known."""
        for line in lines:
            say(line)


W = TypeVar("W", bound=Watcher)
_WATCHER: ContextVar[Watcher] = ContextVar("watcher", default=Watcher())  # noqa: B039, it holds nothing


def watcher() -> Watcher:
    return _WATCHER.get()


@contextlib.contextmanager
def watched_by(one: W) -> Iterator[W]:
    token = _WATCHER.set(one)
    try:
        yield one
    finally:
        _WATCHER.reset(token)
        one.close()
