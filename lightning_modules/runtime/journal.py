"""The journal of a run: what it tells the tracking server, written to disk first and delivered from there.

One JSON object a line. A line that is there survives the process; a line half-written when the process died is cut off
at the next start. `tracking.done` holds how many bytes have been delivered.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_modules.common.files import ends_a_line, private

Entry = dict[str, Any]
# Tag of a run: how long its processes ran, in seconds. Between its start and its end there may be pauses.
RUNNING = "running_seconds"


class Journal:
    """Append from any thread; read what is pending; mark what is delivered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._done = folder / "tracking.jsonl", folder / "tracking.done"
        # Entries that the tracking server refuses, each with its reason.
        self.aside = folder / "tracking.refused.jsonl"
        self.existed = self.path.is_file()
        self._lock = threading.Lock()
        # Bytes that were flushed: all that is there at once, as each entry of a delivery is marked.
        self._on_disk = 0
        if self.existed:
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                os.truncate(self.path, whole)
        # Its config names folders and files of its owner's.
        self._file = open(self.path, "ab", opener=private)  # noqa: SIM115, open as long as the run

    def append(self, kind: str, **content: Any) -> None:
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def entries(self, start: int = 0) -> Iterator[tuple[int, Entry]]:
        """(offset after the entry, entry) of every whole line from byte `start` on."""
        with open(self.path, "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                yield start, json.loads(line)

    @property
    def delivered(self) -> int:
        """Byte up to which all is delivered; 0 where that is no line's end of this journal.

        A machine that died may have kept the mark and lost lines that were told before it.
        """
        offset = int(self._done.read_text()) if self._done.is_file() else 0
        return offset if ends_a_line(self.path, offset) else 0

    @property
    def torn(self) -> bool:
        """Whether something was delivered, and how much is not known any more."""
        return self._done.is_file() and self.delivered == 0

    def mark(self, offset: int) -> None:
        """Everything before `offset` has been delivered; the journal is on the disk before it says so."""
        if offset > self._on_disk:
            self._on_disk = self.path.stat().st_size
            os.fsync(self._file.fileno())
        beside = self._done.with_suffix(".new")
        beside.write_text(str(offset))
        os.replace(beside, self._done)

    def set_aside(self, entry: Entry, reason: str) -> None:
        with open(self.aside, "a", opener=private) as file:
            file.write(json.dumps({**entry, "refused": reason}) + "\n")

    def pending(self) -> Iterator[tuple[int, Entry]]:
        return self.entries(self.delivered)

    def last_steps(self) -> dict[str, int]:
        """Highest step of every metric that the journal holds."""
        steps: dict[str, int] = {}
        for _, entry in self.entries():
            for key, _value, _time, step in entry.get("points", ()):
                steps[key] = max(step, steps.get(key, -1))
        return steps

    def running_seconds(self, *, until: float) -> float:
        """Of all processes of the run, of the last until a moment (seconds since 1970).

        Each counts to the last that it told, so what lies between a kill and the next start is not in it.
        """
        total, last = 0.0, None
        for _, entry in self.entries():
            now = entry["points"][-1][2] / 1000 if entry.get("points") else entry.get("time")
            if now is None:
                continue
            total += now - last if last is not None and entry["kind"] != "start" else 0.0
            last = now
        return total + until - (until if last is None else last)

    def kinds(self, *kinds: str) -> Iterator[tuple[str, Entry]]:
        """(kind, entry) of every entry of these kinds."""
        return ((entry["kind"], entry) for _, entry in self.entries() if entry["kind"] in kinds)

    def close(self) -> None:
        with self._lock:
            self._file.close()
