"""Files that are whole or not there."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def private(path: str, flags: int) -> int:
    """An opener of `open`: what is made is its owner's to read alone."""
    return os.open(path, flags, 0o600)


def write_atomically(path: Path, text: str, *, opener: Any = None) -> None:
    """Beside the target, flushed to the disk, then renamed over it. opener: that of `open`."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(beside, "w", opener=opener) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A list as JSON, a row a line, so that a change of one is a line of a diff."""
    write_atomically(path, "[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")


def is_path(name: str) -> bool:
    """Whether it can only be a place on this machine: `organisation/model` is a name on the hub."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


def beside(place: Path) -> list[str]:
    """Names of what lies where `place` should."""
    return [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> list[int]:
    """Bytes and time of change: what a file too large to be read through is known by."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def ends_a_line(path: Path, offset: int) -> bool:
    """Whether the byte before `offset` of a file is a line's end; a machine that died may have written half a line."""
    if not 0 < offset <= path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(offset - 1)
        return file.read(1) == b"\n"


def model_files(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of what a model's folder computes by: weights, configs, and its tokenizer's or processor's files."""
    kinds = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
    return {path.name: sha256(path) for path in sorted(found for kind in kinds for found in folder.glob(kind))}
