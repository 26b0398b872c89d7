"""Tells what a run makes on its way, on the terminal and in MLflow: what, why, how far, how long still.

MLflow gets the loss of each thing as a curve of the run's own, `inner/KIND/NAME`. Child runs would compare as well within
one study, but fill its experiment's table with forty rows a study, and every search for runs would have to pass them over.
Things of one name follow one another on its curve, so that the number of curves is that of tasks, not of seeds, and a
curve lies on that of the other runs of a sweep. A thing's place on it follows from what is asked for before it, found or
made: a study that was killed logs the same points at the same steps, and the tracker drops those that it has.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lightning_modules.common.making import Thing, Watcher
from lightning_modules.common.metric_names import INNER, PROGRESS
from lightning_modules.common.tables import clock
from lightning_modules.runtime.study import Desk
from lightning_modules.runtime.tracking import Tracker

# Points of a curve for each thing on it, and seconds between two lines where there is no terminal.
POINTS, PAUSE = 50, 30.0
# Columns of a terminal that hold a bar beside the words.
WIDE = 120
# tables/rows.csv: what was taken of the data and what left out.
ROWS = "rows"


class Making:
    """A thing while it is made."""

    def __init__(self, thing: Thing, *, offset: int) -> None:
        self.thing, self.offset, self.since = thing, offset, time.perf_counter()
        self.before = self.steps = self.done = 0
        self.first: tuple[int, float] | None = None
        self.loss: float | None = None
        self.bar: TaskID | None = None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.since

    def reaches(self, step: int) -> None:
        """That many steps are done."""
        self.done = step
        self.first = self.first or (step, self.seconds)

    @property
    def left(self) -> float | None:
        """Seconds, by the pace since the first step: before it data may have been read for longer than training takes."""
        if self.first is None or self.done <= self.first[0]:
            return None
        step, seconds = self.first
        return (self.seconds - seconds) / (self.done - step) * (self.thing.steps - self.done)


class Teller(Watcher):
    """tracker: where points go, beside the terminal; folder: of the run, for its tables."""

    def __init__(self, tracker: Tracker | None, *, folder: Path | None = None) -> None:
        self.tracker, self.folder = tracker, folder
        self.data: dict[str, tuple[list[str], list[Mapping[str, Any]]]] = {}
        self.expected: list[Thing] = []
        self.missing: Counter[str] = Counter()
        self.asked: dict[tuple[str, ...], tuple[int, int]] = {}
        self.ends: Counter[tuple[str, str]] = Counter()
        self.numbers: Counter[str] = Counter()
        self.made: dict[str, list[float]] = {}
        self.kept: Counter[str] = Counter()
        self.stack: list[Making] = []
        self.bars: Progress | None = None
        self.spoke = time.perf_counter()
        self._over = threading.Event()

    def expects(self, things: Sequence[Thing]) -> None:
        """Whatever was asked for before counts too."""
        unique = {thing.identity: thing for thing in things}
        self.expected = [thing for name, thing in unique.items() if name not in self.asked]
        self.missing = Counter(thing.kind for thing in self.expected if not thing.is_kept)
        if self.tracker and self.expected:
            self.tracker.log_metrics({f"{PROGRESS}of": len(self.expected) + len(self.asked)}, 0)
        if self.expected:
            threading.Thread(target=self._keep_talking, daemon=True, name="teller").start()

    def found(self, thing: Thing) -> None:
        number, _ = self._number(thing)
        if number and not self.kept[thing.kind]:
            self._say(f"{thing.kind} {thing.label}: kept from before in {thing.place}")
        self.kept[thing.kind] += bool(number)
        self._count()

    @contextlib.contextmanager
    def making(self, thing: Thing) -> Iterator[None]:
        one = self.begin(thing)
        try:
            self._draw(one, self._name(thing))
            yield
        except Exception as error:
            error.add_note(f"making {self._name(thing)}")
            raise
        finally:
            self.leave(one)
            self._wipe(one)
        self.end(one)

    def begin(self, thing: Thing) -> Making:
        """It is made from now on, here or by another process, until it is left."""
        _, offset = self._number(thing, again=True)
        one = Making(thing, offset=offset)
        if thing.kind not in self.made:
            where = f"kept in {thing.place}: made once" if thing.place else "not kept"
            steps = f", {thing.steps} steps" if thing.steps else ""
            self._say(f"Making {self._name(thing)}{steps}. {thing.why[:1].upper()}{thing.why[1:]}; {where}.")
        self._tag(one)
        self.stack.append(one)
        return one

    def leave(self, one: Making) -> None:
        self.stack.remove(one)

    def end(self, one: Making) -> None:
        """It was left because it is made."""
        self.made.setdefault(one.thing.kind, []).append(one.seconds)
        self.missing[one.thing.kind] -= 1
        if one.seconds > PAUSE:
            self._say(f"Made {self._name(one.thing)} in {clock(one.seconds)}.")
        self._count()

    @contextlib.contextmanager
    def bar_of(self, things: Sequence[Thing], *, name: str) -> Iterator[Callable[[int], None]]:
        """One bar for all that is made at once; it takes how many steps of them are done."""
        whole = Making(Thing("", name, steps=sum(thing.steps for thing in things)), offset=0)
        self._draw(whole, name)

        def done(steps: int) -> None:
            whole.reaches(steps)
            self._show(whole, name)

        try:
            yield done
        finally:
            self._wipe(whole)

    def trains(self, steps: int, one: Making | None = None) -> None:
        """one: whose training it is; that of what was begun last."""
        if one := one or (self.stack[-1] if self.stack else None):
            one.before, one.steps = one.before + one.steps, steps

    def step(self, step: int, loss: Any, one: Making | None = None) -> None:
        shown = one is None
        one = one or (self.stack[-1] if self.stack else None)
        if one is None:
            return
        one.reaches(one.before + step)
        every = max(1, one.thing.steps // POINTS)
        if one.done % every == 0 or step in (1, one.steps):
            one.loss = float(loss)
            if self.tracker:
                key = f"{INNER}{one.thing.kind}/{one.thing.name}".replace(" ", "_")
                self.tracker.log_metrics({key: one.loss}, one.offset + one.done)
        if shown:
            self._show(one, self._name(one.thing))

    def _show(self, one: Making, name: str) -> None:
        if self.bars and one.bar is not None:
            self.bars.update(one.bar, completed=one.done, told=self._state(one))
        if time.perf_counter() - self.spoke > PAUSE:
            self._tag(one, name)
            if not self.bars:
                self._say(f"{name}: {self._state(one)}")

    def read(self, name: str, lines: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        before, known = self.data.get(name, ([], []))
        if (before, known) == (list(lines), list(rows)):
            return
        for line in lines:
            if line not in before:
                self._say(line)
        self.data[name] = list(lines), list(rows)
        every = [row for _, found in self.data.values() for row in found]
        if self.folder and every:
            Desk(folder=self.folder).table(ROWS, every, show=False)
        said = " ".join(line for found, _ in self.data.values() for line in found)
        if self.tracker and said:
            left = sum(row["count"] for row in every if row["what"].startswith("left out"))
            self.tracker.tags({"data.left_out": str(left), "data.said": said})

    def _keep_talking(self) -> None:
        """What has no steps to count, as reading data or the analysis, says now and then that it goes on."""
        while not self._over.wait(min(1.0, PAUSE)):
            if not self.bars and time.perf_counter() - self.spoke > PAUSE:
                self._say(self._so_far())

    def _so_far(self) -> str:
        if not self.stack:
            return "Still at work."
        one = self.stack[-1]
        # Slow steps leave it to the thread to say how far they are.
        training = 0 < one.done < one.thing.steps
        return f"{self._name(one.thing)}: {self._state(one) if training else f'{clock(one.seconds)} so far.'}"

    def close(self) -> None:
        """Say nothing any more."""
        self._over.set()

    def summary(self) -> None:
        """What was made and what was there, when the run is through."""
        self.close()
        if self.tracker and self.asked:
            self.tracker.tags({"progress": "done"})
        for kind in dict.fromkeys([*self.made, *self.kept]):
            times, there = self.made.get(kind, []), self.kept[kind]
            parts = [f"{len(times)} made in {clock(sum(times))}"] * bool(times)
            parts += [f"{there} kept from before"] * bool(there)
            self._say(f"{kind}: {', '.join(parts)}.")

    def _number(self, thing: Thing, *, again: bool = False) -> tuple[int, int]:
        """(its number among its kind, where it begins on its curve); number 0 for one that was asked for before."""
        if thing.identity in self.asked:
            number, offset = self.asked[thing.identity]
            return (number if again else 0), offset
        self.numbers[thing.kind] += 1
        curve = (thing.kind, thing.name)
        self.asked[thing.identity] = self.numbers[thing.kind], self.ends[curve]
        self.ends[curve] += thing.steps
        return self.asked[thing.identity]

    def _name(self, thing: Thing) -> str:
        number = self.asked[thing.identity][0]
        of = self._total(thing.kind)
        return f"{thing.kind} {number} of {of} ({thing.label})" if of > 1 else f"{thing.kind} {thing.label}"

    def _total(self, kind: str) -> int:
        identities = {thing.identity for thing in self.expected if thing.kind == kind}
        return len(identities | {identity for identity in self.asked if identity[0] == kind})

    def _state(self, one: Making) -> str:
        found = f"step {one.done} of {one.thing.steps}" if one.thing.steps else ""
        found += f", loss {one.loss:.3f}" if one.loss is not None else ""
        if one.left is not None:
            found += f", {clock(one.left)} left"
            more = self.missing[one.thing.kind] - 1
            if more > 0:
                times = self.made.get(one.thing.kind) or [one.seconds + one.left]
                found += f", {clock(one.left + more * sum(times) / len(times))} for all of them"
        return found

    def _say(self, text: str) -> None:
        self.spoke = time.perf_counter()
        # A line beside a live bar goes through its console, which draws the bar below it.
        console = self.bars.console if self.bars else Console(stderr=True)
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _draw(self, one: Making, name: str) -> None:
        console = Console(stderr=True)
        if not console.is_terminal:
            return
        if self.bars is None:
            # A line that is wider than the terminal would be drawn below itself again and again.
            bar = [BarColumn(20)] if console.width >= WIDE else []
            doing, told = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[told]}"))
            self.bars = Progress(doing, *bar, told, console=console, transient=True, refresh_per_second=4)
            self.bars.start()
        one.bar = self.bars.add_task(name, total=one.thing.steps or None, told=self._state(one))

    def _wipe(self, one: Making) -> None:
        if self.bars is None or one.bar is None:
            return
        self.bars.remove_task(one.bar)
        if not self.stack:
            self.bars.stop()
            self.bars = None

    def _count(self) -> None:
        """One more of all that is expected."""
        if self.tracker and self.expected:
            done = len(self.asked) - len(self.stack)
            self.tracker.log_metrics({f"{PROGRESS}done": done}, done)

    def _tag(self, one: Making, name: str = "") -> None:
        if self.tracker:
            self.tracker.tags({"progress": f"{name or self._name(one.thing)}: {self._state(one)}".rstrip(": ")})
