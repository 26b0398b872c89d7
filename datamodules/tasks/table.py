"""The rows of a dataset, from a file, a folder or the hub, as columns; what cannot be read is told by its true reason."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.files import TABLES, kind_of, rows
from lightning_modules.common.files import beside
from lightning_modules.common.say import say

KEY = "data.source"
BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
READ = (*TABLES, *BUILDERS)
USUAL = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
# In a file's path, as `datasets` reads them, but in any case.
SPLIT_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}


@dataclass(frozen=True)
class Table:
    """Columns of equal length by name, the names of a column's classes, and where a row stands."""

    column: Callable[[str], list[Any]]
    column_names: list[str]
    classes: Mapping[str, list[str]]
    places: Sequence[str] = ()

    def place(self, row: int) -> str:
        return self.places[row] if self.places else f"row {row + 1}"


def of_dataset(found: Any) -> Table:
    """Of a `datasets.Dataset`."""
    classes = {name: list(getattr(feature, "names", None) or []) for name, feature in found.features.items()}
    return Table(lambda column: found[column][:], found.column_names, classes)


def of_files(paths: Sequence[Path]) -> Table:
    """Of .csv, .tsv, .json or .jsonl files, .gz too; a row without a field has None there."""
    places, found = [], []
    headers: dict[Path, list[str]] = {}
    for path in paths:
        for place, row in rows(path):
            places.append(place)
            found.append(row)
            if kind_of(path) in (".csv", ".tsv"):
                headers.setdefault(path, list(row))
    if not found:
        raise ValueError(f"{paths[0]} has no row below its header; expected rows.")
    for path, header in headers.items():
        first = next(iter(headers))
        if set(header) != set(headers[first]):
            raise ValueError(
                f"{path} has the columns {', '.join(header)}, and {first} {', '.join(headers[first])}; expected the same in "
                "all files of a split."
            )
    names = dict.fromkeys(name for row in found for name in row)
    return Table(lambda column: [row.get(column) for row in found], list(names), {}, places)


def tables_of(
    dataset: str, *, config: str | None, revision: str | None, data_files: Mapping[str, str] | None
) -> dict[str, Table]:
    """Split -> table. ValueError naming the dataset and the reason, the file and the place where there is one."""
    import datasets

    place = Path(dataset).expanduser()
    settings: dict[str, Any] = {"name": config, "revision": revision, "data_files": data_files}
    path, own = dataset, _own_files(dataset, place, data_files)
    if not own and place.is_dir() and config is None and data_files is None:
        own = _by_split(place)
    if own:
        try:
            return {split: of_files(its) for split, its in own.items()}
        except ValueError as error:
            raise ValueError(f"{KEY}.dataset={dataset}: {error}") from None
    kind = kind_of(place)
    if place.is_file() and kind not in READ:
        raise ValueError(
            f"{KEY}.dataset={dataset}: a {kind or 'nameless'} file has no columns to read; expected {', '.join(READ)}, the "
            "first four also as .gz, or a folder of them."
        )
    if place.is_dir() and not any(p.is_file() for p in place.rglob("*")):
        raise ValueError(f"{KEY}.dataset={dataset}: an empty folder; expected one with {', '.join(READ)} files.")
    try:
        if (place / "dataset_dict.json").is_file():
            return {split: of_dataset(found) for split, found in datasets.load_from_disk(str(place)).items()}
        if (place / "state.json").is_file():
            return {"train": of_dataset(datasets.load_from_disk(str(place)))}
        if place.is_file():
            path, settings["data_files"] = BUILDERS[kind], {"train": str(place)}
        if place.is_dir():
            path = str(place)
        loaded = datasets.load_dataset(path, **{k: v for k, v in settings.items() if v is not None})
        return {split: of_dataset(found) for split, found in loaded.items()}
    except Exception as error:
        raise _not_loaded(dataset, place, error) from error


def true_reason(error: BaseException) -> str:
    """Of the error that the others only wrap: `datasets` says `An error occurred while generating the dataset`."""
    reasons = []
    found: BaseException | None = error
    while found is not None:
        reasons += [str(found).splitlines()[0]] if str(found) else []
        found = found.__cause__ or found.__context__
    return reasons[-1] if reasons else type(error).__name__


def _own_files(dataset: str, place: Path, data_files: Mapping[str, str] | None) -> dict[str, list[Path]]:
    """Split -> files, where they are files of text that are read here, row by row."""
    if data_files and f".{dataset}" in TABLES and all(isinstance(f, str) for f in data_files.values()):
        found = {split: Path(file).expanduser() for split, file in data_files.items()}
        readable = all(p.is_file() and kind_of(p) in TABLES for p in found.values())
        return {split: [p] for split, p in found.items()} if readable else {}
    broken_link = place.is_symlink() and not place.exists()
    return {"train": [place]} if kind_of(place) in TABLES and (place.is_file() or broken_link) else {}


def _by_split(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by the words in their paths, all of `train` where none has one; {} where `datasets` reads it."""
    every = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    every = [p for p in every if not any(part.startswith((".", "__")) for part in p.parts)]
    known = [p for p in every if kind_of(p) in TABLES]
    # What was saved by it, columns by type, or a card that says which file is what.
    if not known or any(kind_of(p) in BUILDERS or p.name in ("README.md", "dataset_dict.json") for p in every):
        return {}
    found: dict[str, list[Path]] = {}
    for path in known:
        for split, words in SPLIT_WORDS.items():
            if re.search(rf"(^|[-._ 0-9/])({words})([-._ 0-9/]|$)", path.as_posix().lower()):
                found.setdefault(split, []).append(path)
                break
    found = found or {"train": known}
    taken = {path for paths in found.values() for path in paths}
    if others := [p.as_posix() for p in every if p not in taken]:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        say(
            f"{folder}: not read: {', '.join(others[:3])}{more}; read are {', '.join(found)} by the words in file names."
        )
    return {split: [folder / path for path in paths] for split, paths in found.items()}


def _not_loaded(dataset: str, place: Path, error: Exception) -> ValueError:
    reason = true_reason(error)
    near = difflib.get_close_matches(place.name, beside(place), n=1, cutoff=0.5)
    hint = f"; the nearest is {place.parent / near[0]}" if near and not place.exists() else ""
    return ValueError(
        f"{KEY}.dataset={dataset}: not loaded ({reason}). Expected the name of a dataset on the hub, with the network or "
        f"its cache at hand, a folder of data files, or a {', '.join(READ)} file{hint}."
    )
