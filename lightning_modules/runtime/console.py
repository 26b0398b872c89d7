"""What a run says on its terminal, kept in console.log beside it, without colours and progress bars."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from lightning_modules.common.credentials import masked

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Tee:
    """A stream that also writes its whole lines to a file; a bar that is drawn again and again is no line."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream, self._file, self._rest = stream, file, ""

    def write(self, text: str) -> int:
        self._rest += text
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            plain = ESCAPES.sub("", line).rstrip()
            if plain and "━" not in plain and "\r" not in plain:
                self._file.write(f"{masked(plain)}\n")
        self._file.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Copy stdout and stderr to `path` while it lasts."""
    with open(path, "a", encoding="utf-8") as file:
        out, err = Tee(sys.stdout, file), Tee(sys.stderr, file)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
