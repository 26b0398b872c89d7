"""One holder at a time, over processes and hosts: for what takes minutes or days and must not be done twice at once.

`BASE.7` is the seventh claim on BASE. A claim is made by creating a file that must not be there yet, so of several that
want the same turn one wins; the file with the highest turn counts, and an empty one has been given back. Its holder
touches it every `BEAT` seconds. On the same machine a holder is dead when its process is; on another one, when its last
touch is older than `LIMIT` by the file system's clock, which is the only clock that both read.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

BEAT, LIMIT, POLL = 5.0, 60.0, 0.2
# Two readings of when a process began differ by what the clock was set in between.
CLOCK = 10.0
HELD = 75  # exit code of a command whose folder another one holds: EX_TEMPFAIL of sysexits.h
_mine: set[str] = set()


class Holder(NamedTuple):
    """Who holds a claim. `place` is where its process number means something."""

    host: str
    place: str
    pid: int
    started: float
    since: str
    token: str

    def lives(self, age: float) -> bool:
        """`age`: seconds since it touched its claim."""
        if self.place != place():
            return age < LIMIT
        if self.pid == os.getpid():
            return self.token in _mine
        return status_of(self.pid, self.started) not in (None, psutil.STATUS_ZOMBIE)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class HeldError(OSError):
    """Somebody else is at it."""

    def __init__(self, base: Path, holder: Holder, age: float) -> None:
        self.holder = holder
        elsewhere = (
            "" if holder.place == place() else f" It is taken for dead after {LIMIT:.0f} s without a sign of life."
        )
        super().__init__(
            f"{base.parent} is in use by {holder} (last sign of life {max(0.0, age):.0f} s ago). Wait for it or stop it: "
            f"two at once would write over each other.{elsewhere}"
        )


def status_of(pid: int, began: float) -> str | None:
    """Of the process here that has this number and began then; None where there is none, as numbers come round again."""
    try:
        process = psutil.Process(pid)
        return process.status() if abs(process.create_time() - began) < CLOCK else None
    except psutil.NoSuchProcess:
        return None


def place() -> str:
    """The host and its process numbers: containers may share a host's name."""
    numbers = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {numbers.stat().st_ino if numbers.exists() else ''}".strip()


@contextlib.contextmanager
def held(base: Path) -> Iterator[None]:
    """Hold `base` while it lasts; raises HeldError, which says by whom, when another holds it. A dead one is taken over."""
    with _kept(base, _claim(base)):
        yield


@contextlib.contextmanager
def waited(base: Path, *, what: str) -> Iterator[None]:
    """As `held`, but waits for a living holder, and says once for whom: `what` is what the other one makes."""
    began, told = time.monotonic(), False
    while True:
        try:
            claim = _claim(base)
            break
        except HeldError as other:
            if not told and time.monotonic() - began > 5 * POLL:
                print(f"Waiting for {what}, which is being made by {other.holder}.", file=sys.stderr, flush=True)
                told = True
            time.sleep(POLL)
    with _kept(base, claim):
        yield


def _claim(base: Path) -> Path:
    base.parent.mkdir(parents=True, exist_ok=True)
    since, began = time.strftime("%Y-%m-%d %H:%M:%S %z"), psutil.Process().create_time()
    me = Holder(socket.gethostname(), place(), os.getpid(), began, since, uuid.uuid4().hex)
    beside = base.with_name(f"{base.name}.{me.token}.new")
    beside.write_text(json.dumps(me._asdict()))
    try:
        while True:
            turn, newest = _newest(base)
            if newest is not None and _in_use(base, newest, now=beside):
                continue
            mine = base.with_name(f"{base.name}.{turn + 1}")
            try:
                os.link(beside, mine)
            except FileExistsError:
                continue
            if _newest(base)[1] != mine:
                # Turns were taken and tidied away since this one looked.
                mine.unlink()
                continue
            for _, old in _claims(base)[:-1]:
                old.unlink(missing_ok=True)
            _mine.add(me.token)
            return mine
    finally:
        beside.unlink(missing_ok=True)


def _in_use(base: Path, claim: Path, *, now: Path) -> bool:
    """Raises HeldError when the claim's holder lives; True when it has just gone, so that one must look again."""
    os.utime(now)
    try:
        with open(claim) as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return True
    age = now.stat().st_mtime - touched
    if text and (holder := Holder(**json.loads(text))).lives(age):
        raise HeldError(base, holder, age)
    return False


def _claims(base: Path) -> list[tuple[int, Path]]:
    """(turn, file) of every claim, the highest last."""
    turns = [(path.suffix[1:], path) for path in base.parent.glob(f"{base.name}.*")]
    return sorted((int(turn), path) for turn, path in turns if turn.isdecimal())


def _newest(base: Path) -> tuple[int, Path | None]:
    return max(_claims(base), default=(0, None))


@contextlib.contextmanager
def _kept(base: Path, claim: Path) -> Iterator[None]:
    """Touch the claim until the end, then give it back: empty, so that turns go on counting."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            try:
                os.utime(claim)
            except FileNotFoundError:
                # Whoever holds it now writes there: not even a checkpoint may be saved.
                print(f"error: {base.parent} was taken over by another process or deleted; stopping.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(HELD)
            except OSError:
                # A file system that is away for a moment; the next touch may come through.
                continue

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(FileNotFoundError):
            os.truncate(claim, 0)
