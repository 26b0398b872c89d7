"""Things that are costly to make and follow from their settings: made once, kept by content, checked at each use."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_modules.common.digests import digest
from lightning_modules.common.files import sha256
from lightning_modules.common.lock import waited
from lightning_modules.common.making import MANIFEST, Thing, Watcher, watcher

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def place_of(*, folder: Path, key: Any) -> Path:
    """Where `made` keeps what follows from `key`, made or not."""
    return folder / digest(key)


def made(
    *,
    folder: Path,
    key: Any,
    make: Callable[[Path], dict[str, Any] | None],
    thing: Thing | None = None,
    fits: Callable[[Path], bool] | None = None,
) -> Path:
    """`folder`/DIGEST of what `make` writes for `key`; made under a lock, beside its place, when it is not there.

    What `make` returns stands in the manifest. thing: what whoever watches the run is told that it is. fits: whether what
    is there still goes with what `key` only names; else it is made anew. Raises ValueError naming the file when one of an
    earlier make has another checksum now, OSError when the disk is full.
    """
    told = watcher() if thing else Watcher()
    target = told.place(place_of(folder=folder, key=key))
    thing = replace(thing or Thing("", ""), place=target)

    def is_there() -> bool:
        if not thing.is_kept:
            return False
        verify(target)
        return fits is None or fits(target)

    there = is_there()
    with contextlib.nullcontext() if there else waited(target.with_name(f"{target.name}.lock"), what=str(target)):
        if there or is_there():
            told.found(thing)
        else:
            with told.making(thing):
                _make(target, key, make)
    return target


def adopt(*, folder: Path, key: dict[str, Any], source: Path) -> Path:
    """Keep a copy of `source` as what `key` makes, unless it is there already."""

    def copy(place: Path) -> None:
        shutil.copytree(source, place, dirs_exist_ok=True)

    return made(folder=folder, key=key, make=copy)


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def verify(folder: Path) -> None:
    for name, expected in manifest(folder)["sha256"].items():
        found = sha256(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged: its SHA-256 is {found}, the manifest says {expected}. Delete the folder "
                f"{folder}; the next run makes it again."
            )


def _make(target: Path, key: Any, make: Callable[[Path], dict[str, Any] | None]) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as beside:
            place = Path(beside) / "made"
            place.mkdir()
            about = make(place) or {}
            files = sorted(p for p in place.rglob("*") if p.is_file())
            sums = {str(p.relative_to(place)): sha256(p) for p in files}
            (place / MANIFEST).write_text(json.dumps({**about, "key": key, "sha256": sums}, indent=1, sort_keys=True))
            shutil.rmtree(target, ignore_errors=True)
            place.rename(target)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        free = shutil.disk_usage(target.parent).free
        raise OSError(
            error.errno,
            f"the disk is full ({os.strerror(error.errno)}, {free:,} bytes free) while {target} was written; nothing "
            "half-written is left. Free some space, set paths.cache, or ask for less.",
        ) from None
