"""Checkpoints that are whole: written beside the target, flushed, checksummed, renamed; the one before is kept."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from lightning_modules.common.files import sha256, stamp

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# What this process wrote, and read back for its checksum: to read gigabytes once more at the next save shows nothing new.
_known_whole: dict[Path, list[int]] = {}


class CheckedCheckpoints(CheckpointIO):
    """`NAME.sha256` beside each file. Writing last.ckpt keeps the one before as previous.ckpt.

    Loading verifies, always with `weights_only=True`: a checkpoint holds tensors and plain containers.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            digest = _write(checkpoint, beside)
            keep(beside, path, digest)
        finally:
            beside.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        check(Path(path))
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        path = Path(path)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        _sum_of(path).unlink(missing_ok=True)


def keep(beside: Path, path: Path, digest: str | None = None) -> None:
    """Rename a whole checkpoint, file or folder, to `path`; a last.ckpt that was there, and whole, becomes previous.ckpt.

    A kill between any two lines leaves one of the two whole, and the next save does not mind.
    """
    digest = digest or _digest(beside)
    # Of a folder, whose own time says nothing of the files in it, each is read.
    known = path.is_file() and stamp(path) == _known_whole.get(path)
    if path.name == LAST and (known or not damage(path)):
        previous = path.with_name(PREVIOUS)
        _sum_of(previous).unlink(missing_ok=True)
        if _sum_of(path).is_file():
            shutil.copyfile(_sum_of(path), _sum_of(previous))
        _rename(path, previous)
    _sum_of(path).unlink(missing_ok=True)
    _rename(beside, path)
    _sum_of(path).write_text(digest)
    _flush_folder(path.parent)
    _known_whole[path] = stamp(path)


def newest_valid(folder: Path, *, say: Any = print) -> Path | None:
    """last.ckpt, or previous.ckpt when that is damaged (and says so); None when there is neither.

    Raises ValueError when there are checkpoints and none is whole.
    """
    candidates = [folder / LAST, folder / PREVIOUS]
    problems = {path: damage(path) for path in candidates if path.exists()}
    for path, problem in problems.items():
        if not problem:
            for bad in (p for p, found in problems.items() if found and p != path):
                say(f"checkpoint {bad} {problems[bad]}; going on from {path.name} instead.")
            return path
    if problems:
        listed = "; ".join(f"{path} {problem}" for path, problem in problems.items())
        raise ValueError(f"no checkpoint of this run is whole: {listed}. Start anew with fresh=true.")
    return None


def check(path: Path) -> None:
    """ValueError for a checkpoint that is not whole."""
    if problem := damage(path):
        raise ValueError(f"checkpoint {path} {problem}; start anew with fresh=true.")


def damage(path: Path) -> str:
    """'' for a whole checkpoint, else what is wrong with it."""
    if not path.exists():
        return "is not there"
    if path.is_file() and path.stat().st_size == 0:
        return "is empty"
    if not _sum_of(path).is_file():
        if path.is_dir():
            return "has no checksum"
        # Renamed, but its checksum was not written any more: only a whole file is ever renamed, so look inside.
        try:
            torch.load(path, map_location="meta", weights_only=True)
        except Exception as error:
            return f"has no checksum and cannot be read ({type(error).__name__})"
        return ""
    same = _digest(path) == _sum_of(path).read_text()
    return "" if same else "is damaged: its SHA-256 is not the one it was written with"


class _Watched:
    """A file that remembers why writing failed; torch turns the OSError into a riddle about its archive."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.problem: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        try:
            # An unbuffered write may take less than it was given.
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.problem = self.problem or error
            raise
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.file.flush()


def _write(checkpoint: dict[str, Any], path: Path) -> str:
    with open(path, "wb", buffering=0) as file:
        watched = _Watched(file)
        try:
            torch.save(checkpoint, cast(BinaryIO, watched))
            os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            problem = watched.problem or error
            if not isinstance(problem, OSError):
                raise
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                problem.errno,
                f"{path.parent}: no checkpoint could be written ({problem.strerror}; {free:,} bytes free); the one before "
                "is kept. Free some space; the same command goes on from there.",
            ) from error
    return sha256(path)


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and files."""
    if path.is_file():
        return sha256(path)
    listed = "\n".join(f"{p.name} {sha256(p)}" for p in sorted(path.iterdir()))
    return hashlib.sha256(listed.encode()).hexdigest()


def _rename(path: Path, target: Path) -> None:
    # Only a file takes another's place in one go.
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)


def _sum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
