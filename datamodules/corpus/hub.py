"""Hugging Face datasets as a corpus: streamed, up to a budget, and kept while they are read, so that a reading goes on."""

import glob
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules.corpus.sources import Documents, read_kept
from lightning_modules.common.digests import digest
from lightning_modules.common.files import stamp, write_atomically
from lightning_modules.common.say import say

# Documents between two marks: what a killed reading reads again at most.
EVERY = 256
BUDGETS = ("documents", "tokens")
DOCUMENTS, MARK = "documents.jsonl", "mark.json"


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.create(dict(entry)), resolve=True)
    return found


def _own_files(entry: Mapping[str, Any]) -> dict[str, list[int]]:
    """[bytes, time of change] of the files on this machine that `entry` names, in folders and by patterns too."""
    given = entry.get("data_files") or []
    of_splits = list(given.values()) if isinstance(given, Mapping) else [given]
    names = itertools.chain.from_iterable([of] if isinstance(of, str) else of for of in of_splits)
    named = [Path(entry.get("data_dir") or "") / name for name in names]
    named += [Path(entry[key]) for key in ("path", "data_dir") if entry.get(key)]
    found: set[Path] = set()
    for path in named:
        inside = path.rglob("*") if path.is_dir() else map(Path, glob.iglob(str(path), recursive=True))
        found |= {file for file in [path, *inside] if file.is_file()}
    return {str(file): stamp(file) for file in sorted(found)}


class HubSource:
    """Hugging Face datasets by hub name or local path, one entry per domain, streamed.

    domains: {name: {path, name?, revision?, split?, data_files?, field?, documents?, tokens?}}, the arguments of
    `datasets.load_dataset`, where the text stands, and how many documents or tokens are read at most: no more are fetched.
    """

    # Where what is read is kept until the corpus is made: `cache.build` says it.
    reading: Path | None = None

    def __init__(self, *, domains: dict[str, dict[str, Any]]) -> None:
        if not domains:
            raise ValueError("data.hub is empty; expected one entry per domain, e.g. 'data.hub={wiki: {path: NAME}}'.")
        # A year is a whole number in YAML, and no longer one when the manifest is read.
        # Plain all the way down, as a manifest and `datasets` take them: data_files may be a list, or a mapping of splits.
        self.domains = {str(name): _plain(entry) for name, entry in domains.items()}
        if wrong := [name for name in self.domains if not name or "/" in name]:
            raise ValueError(
                f"data.hub has a domain called {wrong[0]!r}; expected a name that a file can have, without a slash."
            )
        self.budgets = {name: {k: entry[k] for k in BUDGETS if k in entry} for name, entry in self.domains.items()}
        for name, budget in self.budgets.items():
            for key, most in budget.items():
                if not isinstance(most, int) or isinstance(most, bool) or most < 1:
                    raise ValueError(f"data.hub.{name}.{key} is {most!r}; expected a whole number of at least 1.")

    def description(self) -> dict[str, Any]:
        """Files of one's own are known by size and time, as a folder's; what is on the hub by its `revision`."""
        files = {name: found for name, entry in self.domains.items() if (found := _own_files(entry))}
        return {"source": "hub", "domains": self.domains, **({"files": files} if files else {})}

    def documents(self) -> Documents:
        return {name: self._read(name, dict(entry)) for name, entry in self.domains.items()}

    def _read(self, domain: str, entry: dict[str, Any]) -> Iterator[str]:
        import datasets

        field, split, path = entry.pop("field", "text"), entry.pop("split", "train"), entry.pop("path", None)
        most, _ = entry.pop("documents", None), entry.pop("tokens", None)
        try:
            builder = datasets.load_dataset_builder(path, **entry)
            stream = builder.as_streaming_dataset(split=split)
        except Exception as error:
            raise _not_loaded(domain, path, error) from error
        # Of the hub its commit, of a file its time: a dataset that has changed is read from its beginning.
        files = builder.config.data_files or {}
        origin = digest([str(files), *(str(getattr(found, "origin_metadata", "")) for found in files.values())])
        assert self.reading is not None
        kept = Kept(self.reading / digest([domain, field, split, path, entry]), origin)
        if kept.count:
            say(f"corpus: {domain} goes on behind the {kept.count:,} documents that were read before.")
            yield from itertools.islice(read_kept(kept.folder / DOCUMENTS), most)
            stream.load_state_dict(kept.stream)
        rows, usable = iter(stream), True
        try:
            while most is None or kept.count < most:
                try:
                    row = next(rows, None)
                except Exception as error:
                    if not kept.count:
                        raise _not_loaded(domain, path, error) from error
                    raise ValueError(
                        f"data.hub.{domain}: reading {path!r} stopped behind {kept.count:,} documents "
                        f"({type(error).__name__}: {error}). The same command goes on there."
                    ) from error
                if row is None:
                    break
                usable = False
                text = _text(row, field, f"data.hub.{domain}", kept.count + 1)
                usable = True
                kept.add(text, stream)
                yield text
        finally:
            # Behind a document that is refused no reading goes on.
            kept.close(stream if usable else None)


def _not_loaded(domain: str, path: str | None, error: Exception) -> ValueError:
    return ValueError(
        f"data.hub.{domain}: {path!r} could not be loaded ({type(error).__name__}: {error}). Expected the name of a dataset "
        "on a hub that can be reached, or a local path."
    )


def _text(row: dict[str, Any], field: str, key: str, number: int) -> str:
    if field not in row:
        raise ValueError(f"{key}: no field {field!r}; there are {', '.join(row)}.")
    if not isinstance(row[field], str | None):
        raise ValueError(
            f"{key}: field {field!r} of document {number:,} holds {type(row[field]).__name__}; expected text."
        )
    return row[field] or ""


class Kept:
    """The documents of one domain that were read, in `folder`, and where the stream stood behind them.

    Of another `origin` than what is there, it begins anew.
    """

    def __init__(self, folder: Path, origin: str) -> None:
        self.folder, self.origin = folder, origin
        self.count, self.size, self.stream = 0, 0, dict[str, Any]()
        folder.mkdir(parents=True, exist_ok=True)
        found = json.loads((folder / MARK).read_text()) if (folder / MARK).is_file() else {}
        documents = folder / DOCUMENTS
        # Where the power went, a mark may be there without all that it speaks of.
        if found.get("origin") == origin and documents.is_file() and documents.stat().st_size >= found["size"]:
            self.count, self.size, self.stream = found["count"], found["size"], found["stream"]
        # What was written behind the mark is read again.
        self._file = open(documents, "ab")  # noqa: SIM115
        self._file.truncate(self.size)

    def add(self, text: str, stream: Any) -> None:
        self.count += 1
        self.size += self._file.write(json.dumps(text).encode() + b"\n")
        if self.count % EVERY == 0:
            self.mark(stream)

    def mark(self, stream: Any) -> None:
        """Remember where the stream stands."""
        self._file.flush()
        os.fsync(self._file.fileno())
        about = {"origin": self.origin, "count": self.count, "size": self.size, "stream": stream.state_dict()}
        write_atomically(self.folder / MARK, json.dumps(about))

    def close(self, stream: Any) -> None:
        """With a mark where the stream stands; without one where that is None."""
        if stream is not None and self.count:
            self.mark(stream)
        self._file.close()
