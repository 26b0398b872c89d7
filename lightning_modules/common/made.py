"""Things that are costly to make and follow from their settings: made once, kept by content, checked at each use."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_modules.common.files import locked, sha256

MANIFEST = "manifest.json"


def digest(key: Any) -> str:
    """16 hex digits of the SHA-256 of `key` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def made(*, folder: Path, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
    """`folder`/DIGEST of what `make` writes for `key`; made under a lock, beside its place, when it is not there.

    Raises ValueError naming the file when one of an earlier make has another checksum now.
    """
    target = folder / digest(key)
    if not (target / MANIFEST).is_file():
        with locked(folder / f"{target.name}.lock"):
            if not (target / MANIFEST).is_file():
                _make(target, key, make)
    verify(target)
    return target


def adopt(*, folder: Path, key: dict[str, Any], source: Path) -> Path:
    """Keep a copy of `source` as what `key` makes, unless it is there already."""
    return made(folder=folder, key=key, make=lambda place: shutil.copytree(source, place, dirs_exist_ok=True))


def verify(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, expected in manifest["sha256"].items():
        found = sha256(folder / name) if (folder / name).is_file() else "missing"
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged: its SHA-256 is {found}, the manifest says {expected}. Delete the folder "
                f"{folder}; the next run makes it again."
            )


def _make(target: Path, key: dict[str, Any], make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as beside:
        place = Path(beside) / "made"
        place.mkdir()
        make(place)
        files = sorted(p for p in place.rglob("*") if p.is_file())
        manifest = {"key": key, "sha256": {str(p.relative_to(place)): sha256(p) for p in files}}
        (place / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        shutil.rmtree(target, ignore_errors=True)
        place.rename(target)
