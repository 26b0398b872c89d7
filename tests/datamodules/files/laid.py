"""A case, and what lays its file into a folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

COUNT = 60
READ = ""


class Case(NamedTuple):
    """refused: words of what is said, `READ` where the file is read; warned: words that are said all the same."""

    reader: str
    name: str
    make: Callable[[Path], Path]
    refused: str = READ
    warned: str = ""


def rows(count: int = COUNT, **more) -> list[dict]:
    return [{"text": f"sentence {i} of some words", "label": i % 2, **more} for i in range(count)]


def put(name: str, content: bytes | str | Callable[[], bytes | str]) -> Callable[[Path], Path]:
    """Lays `content` into the file `name`."""

    def make(folder: Path) -> Path:
        found = content() if callable(content) else content
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(found.encode() if isinstance(found, str) else found)
        return folder / name

    return make


def csv(found=None, *, end: str = "\n", between: str = ",", label=str) -> str:
    lines = [between.join(("text", "label"))]
    lines += [f"{r['text']}{between}{label(r['label'])}" for r in found or rows()]
    return end.join(lines) + end


def jsonl(found=None) -> str:
    return "".join(json.dumps(r) + "\n" for r in found or rows())


def labelled(change: Callable[[int], object]) -> list[dict]:
    return [r | {"label": change(r["label"])} for r in rows()]


def parquet(name: str = "mine.parquet", found=None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found or rows()), folder / name)
        return folder / name

    return make


def arrow(folder: Path) -> Path:
    table = pyarrow.Table.from_pylist(rows())
    with pyarrow.ipc.new_stream(str(folder / "mine.arrow"), table.schema) as out:
        out.write_table(table)
    return folder / "mine.arrow"


def saved(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_list(rows()).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def folder_of(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return make


def loop(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.symlink(folder / name, folder / name)
        return folder / name

    return make


def folder_with(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return put(f"data/{name}", content)(folder).parent

    return make


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
