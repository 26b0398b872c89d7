"""Pairs as a model reads them, each encoded once: in memory, or kept by content under the cache folder.

What is kept follows from the reader's content and the pair's, the bytes of its pictures included: another picture or another
processor is encoded anew. Parts of `PART` pairs are made one by one, so that what was stopped goes on with what is there.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.ordered import Batches
from datamodules.scenes.file_source import FileSource
from datamodules.scenes.reader import Encoded, Reader
from lightning_modules.common.digests import digest
from lightning_modules.common.made import made
from lightning_modules.common.say import say

# Raised when pairs are encoded in another way.
VERSION = 1
PART = 32
FILE = "pairs.safetensors"
GIGABYTES = 20.0
# Threads of this process wait for one another here, without the lines and polling of locks between processes.
_making: dict[str, threading.Lock] = {}
# A loader's worker has none of the threads that hold them.
os.register_at_fork(after_in_child=_making.clear)


class Numbered(NamedTuple):
    """A batch: numbers of the pairs in their split, and the pairs."""

    numbers: list[int]
    pairs: list[Encoded]


class EncodedPairs(Batches):
    """Pairs as `reader` reads them; kept in memory once read when `keep` (small images)."""

    def __init__(self, pairs: Sequence[Any], reader: Reader, *, pixels: int, keep: bool = False) -> None:
        self.pairs, self.reader, self.pixels, self.sizes = pairs, reader, pixels, [len(pairs)]
        self._kept: dict[int, Encoded] | None = {} if keep else None

    def __getitem__(self, number: int) -> Encoded:
        if self._kept is not None and number in self._kept:
            return self._kept[number]
        pair = self.pairs[number]
        found = self.reader.encode(pair, pair.images(self.pixels))
        if self._kept is not None:
            self._kept[number] = found
        return found

    def cut_and_alike(self) -> tuple[int, int]:
        """Responses longer than the reader's limit, and pairs whose two are the same tokens; no picture is opened for it."""
        cut = alike = 0
        for pair in self.pairs:
            (one, first), (other, second) = (self.reader.response(text) for text in (pair.chosen, pair.rejected))
            cut += first + second
            alike += torch.equal(one, other)
        return cut, alike

    def __getitems__(self, numbers: list[int]) -> Numbered:
        return Numbered(list(numbers), [self[n] for n in numbers])


class KeptPairs(EncodedPairs):
    """The same from `folder`, where a part is made when its first pair is asked for.

    Args:
        contents: of each pair, its texts and its pictures' checksums.
    """

    def __init__(self, pairs: Sequence[Any], reader: Reader, *, pixels: int, contents: list[Any], folder: Path) -> None:
        super().__init__(pairs, reader, pixels=pixels)
        self.contents, self.folder = contents, folder
        self._files: dict[int, Path] = {}

    def __getitem__(self, number: int) -> Encoded:
        return load(self.part(number // PART), number % PART)

    def part(self, number: int) -> Path:
        """The file of pairs `number` x PART onwards; made, or its checksum looked at, once in a process."""
        if number not in self._files:
            mine = slice(number * PART, (number + 1) * PART)
            key = {"version": VERSION, "reader": self.reader.content, "pairs": self.contents[mine]}

            def make(place: Path) -> None:
                read = [super(KeptPairs, self).__getitem__(n) for n in range(len(self))[mine]]
                save(place / FILE, read)

            with _making.setdefault(digest(key), threading.Lock()):
                self._files[number] = made(folder=self.folder, key=key, make=make) / FILE
        return self._files[number]


def save(path: Path, pairs: Sequence[Encoded]) -> None:
    from safetensors.torch import save_file

    found: dict[str, Tensor] = {}
    for number, pair in enumerate(pairs):
        for field, value in pair._asdict().items():
            if isinstance(value, Tensor):
                found[f"{number}.{field}"] = value
            elif isinstance(value, dict):
                found |= {f"{number}.{field}.{name}": tensor for name, tensor in value.items()}
    # Whatever shares memory with another tensor or lies in strides is refused by the format.
    about = {"cut": " ".join(str(pair.cut) for pair in pairs)}
    save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, path, metadata=about)


def load(path: Path, number: int) -> Encoded:
    from safetensors import safe_open

    fields: dict[str, Any] = {"inputs_w": {}, "inputs_l": {}, "inputs_n": {}}
    with safe_open(path, "pt") as file:
        fields["cut"] = int(file.metadata()["cut"].split()[number])
        for name in file.keys():  # noqa: SIM118, it is no mapping
            mine, *group, field = name.split(".", 2)
            if mine == str(number):
                place = fields[group[0]] if group else fields
                place[field] = file.get_tensor(name)
    return Encoded(**fields)


def encoded(
    source: Any,
    split: str,
    reader: Reader,
    *,
    pixels: int,
    keep: bool,
    cache_dir: str | None,
    gigabytes: float = GIGABYTES,
) -> EncodedPairs:
    """The pairs of a split: of a user's file kept under `cache_dir`, unless all splits would take more than `gigabytes`."""
    pairs = source.pairs(split)
    if cache_dir is None or not gigabytes or not isinstance(source, FileSource):
        return EncodedPairs(pairs, reader, pixels=pixels, keep=keep)
    folder = Path(cache_dir) / "svco" / "encoded"
    kept = KeptPairs(pairs, reader, pixels=pixels, contents=source.contents(split), folder=folder)
    needed = kept.part(0).stat().st_size / min(PART, len(pairs)) * len(source.all) / 1e9
    if needed <= gigabytes:
        return kept
    say(
        f"{source.name}: {len(source.all):,} encoded pairs would take about {needed:,.0f} GB, more than "
        f"data.encoded_gb={gigabytes:g}: none are kept, each is encoded whenever it is asked for."
    )
    return EncodedPairs(pairs, reader, pixels=pixels, keep=keep)


def read_ahead(splits: Sequence[EncodedPairs]) -> Callable[[], None]:
    """Makes what is not there of `splits`, one after another, beside what the caller does; returns what ends it.

    What fails is left to whoever asks for the pair, and is told there.
    """
    kept = [split for split in splits if isinstance(split, KeptPairs)]
    parts = [(split, first // PART) for split in kept for first in range(0, len(split), PART)]
    over = threading.Event()

    def work() -> None:
        with contextlib.suppress(Exception):
            for split, part in parts:
                if over.is_set():
                    return
                split.part(part)

    thread = threading.Thread(target=work, name="encoding", daemon=True)

    def end() -> None:
        over.set()
        thread.join()
        atexit.unregister(end)

    # A part that is half made at the end of the process would be left beside its place.
    atexit.register(end)
    thread.start()
    return end
