"""Text files as people have them: with a byte-order mark or none, compressed or not. A fault is named with its place."""

import codecs
import csv
import gzip
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules import jsons
from datamodules.quotes import Quotes

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
TABLES = (".csv", ".tsv", ".json", ".jsonl")
# What stands between the columns where a header of one column holds it.
BETWEEN = (";", "\t")


def kind_of(path: Path) -> str:
    """`.csv` of `A.CSV.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def lines(path: Path) -> Iterator[str]:
    """Lines with their ends. ValueError naming file, line and byte for what is no UTF-8 text or no whole file."""
    if not path.is_file():
        raise ValueError(f"{path}: {_instead_of_a_file(path)}; expected a file.")
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    offset = 0
    try:
        with opened(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1 and raw.startswith(UTF16):
                    raise ValueError(f"{path} is UTF-16; expected UTF-8: convert it (iconv -f utf-16 -t utf-8).")
                if 0 in raw:
                    raise ValueError(
                        f"{path}: NUL byte at offset {offset + raw.index(0)} (line {number}); expected text in UTF-8, and "
                        "this is binary, UTF-16 or damaged."
                    )
                text = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                try:
                    yield text.decode()
                except UnicodeDecodeError as error:
                    place = offset + len(raw) - len(text) + error.start
                    raise ValueError(
                        f"{path} is not UTF-8: byte 0x{text[error.start]:02x} at offset {place} (line {number}); convert "
                        "it, with iconv -f latin1 -t utf-8 where it is Latin-1, or remove it."
                    ) from None
                offset += len(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}); copy it again or remove it.") from None
    except PermissionError:
        raise ValueError(f"{path} may not be read by this user; expected read permission.") from None


def text(path: Path) -> str:
    """The whole file, its line ends `\\n`."""
    return "".join(lines(path)).replace("\r\n", "\n").replace("\r", "\n")


def rows(path: Path, *, kind: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, {column: value}) of a .csv, .tsv, .json or .jsonl file, .gz too; `kind`, where its name does not say which.

    ValueError naming the place of a fault.
    """
    yield from _csv(path) if (kind or kind_of(path)) in (".csv", ".tsv") else _json(path)


def _instead_of_a_file(path: Path) -> str:
    if path.is_symlink():
        return "a link that leads to no file"
    return "a folder" if path.is_dir() else "not there"


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    first = next(_broken(path), "")
    between = "\t" if kind_of(path) == ".tsv" else ","
    if "," not in first:
        between = next((mark for mark in BETWEEN if mark in first), between)
    quotes = Quotes(_broken(path), between)
    reader = csv.reader(quotes.lines(), delimiter=between, skipinitialspace=True)
    header = next((row for row in reader if any(map(str.strip, row))), None)
    if header is None:
        raise ValueError(f"{path} is empty; expected a header of column names and rows.")
    header = [name.strip() for name in header]
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise ValueError(f"{path}: the header names {twice[0]!r} twice; expected columns of different names.")
    quotes.columns(len(header))
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields; expected {len(header)} ({', '.join(header)}). A "
                    'comma or line end inside a text needs quotes round it: "..."'
                )
            quotes.row(row, reader.line_num)
            yield f"{path}, line {reader.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; expected rows of {', '.join(header)}.") from None
    if place := quotes.left_open():
        raise ValueError(
            f"{path}, lines {place[0]} to {place[1]}: a quote makes one text of what is a row a line without it; "
            'close it, or where it belongs to the text write it twice, in quotes: """Yes"", she said".'
        )


def _broken(path: Path) -> Iterator[str]:
    """Lines, also those that a carriage return alone ends."""
    for line in lines(path):
        yield from re.findall(r"[^\r]*\r\n?|[^\r]+", line)


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a list, or one a line; whichever it is, the name may say the other."""
    first_mark = next((line.strip()[0] for line in lines(path) if line.strip()), "")
    for where, row in _of_list(path) if first_mark == "[" else _of_lines(path):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {type(row).__name__}; expected an object, {{column: value}}.")
        yield where, row


def _of_lines(path: Path) -> Iterator[tuple[str, Any]]:
    if next(lines(path), None) is None:
        raise ValueError(f"{path} is empty; expected a JSON object a line, or a list of objects.")
    for number, row in jsons.lines(lines(path)):
        if isinstance(row, jsons.JSONDecodeError):
            alone = row.doc.strip() == "{"
            more = ": an object must stand on one line, or all of them in a list [...]" if alone else ""
            raise ValueError(
                f"{path}, line {number}, column {row.colno}: no JSON ({row.msg}){more}; expected an object a line."
            )
        yield f"{path}, line {number}", row


def _of_list(path: Path) -> Iterator[tuple[str, Any]]:
    for number, (_, row) in enumerate(jsons.items(text(path)), 1):
        if isinstance(row, jsons.JSONDecodeError):
            raise ValueError(
                f"{path}, line {row.lineno}, column {row.colno}: no JSON ({row.msg}); expected a list of objects."
            )
        yield f"{path}, item {number}", row
