"""Folders of text, one a domain."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

from tests.datamodules.files.laid import Case, cut, folder_of, loop, parquet, put


def corpus(name: str, content) -> Callable[[Path], Path]:
    """The folder of a domain `law` with one good file and another."""

    def make(folder: Path) -> Path:
        put("text/law/good.txt", "some words of a text")(folder)
        content(folder / "text" / "law") if callable(content) and not name else put(f"text/law/{name}", content)(folder)
        return folder / "text"

    return make


def linked_folder(folder: Path) -> Path:
    put("other/b.txt", "words")(folder)
    made = corpus("a.txt", "more")(folder)
    os.symlink(folder / "other", made / "law" / "more")
    return made


CORPORA = (
    Case("corpus", "text", corpus("a.txt", "more")),
    Case("corpus", "text with a byte-order mark", corpus("a.txt", "\ufeffmore")),
    Case("corpus", "text with CRLF", corpus("a.txt", "more\r\n\r\nand more")),
    Case("corpus", "text named .TXT", corpus("A.TXT", "more")),
    Case("corpus", "text in UTF-16", corpus("a.txt", "more".encode("utf-16")), "is UTF-16; expected UTF-8"),
    Case(
        "corpus", "text in Latin-1", corpus("a.txt", "line\ncafé".encode("latin-1")), "byte 0xe9 at offset 8 (line 2)"
    ),
    Case("corpus", "text with NUL bytes", corpus("a.txt", "a\0b"), "NUL byte at offset 1 (line 1)"),
    Case("corpus", "text of no bytes beside a good one", corpus("a.txt", "")),
    Case("corpus", "gzip", corpus("a.txt.gz", lambda: gzip.compress(b"more"))),
    Case(
        "corpus", "gzip, cut off", corpus("a.txt.gz", lambda: gzip.compress(b"more" * 99)[:-6]), "is no whole gzip file"
    ),
    Case(
        "corpus",
        "JSON lines without the field",
        corpus("a.jsonl", '{"body": "x"}\n'),
        'a.jsonl:1 is no JSON object with a field "text"',
    ),
    Case(
        "corpus",
        "JSON lines, one broken",
        corpus("a.jsonl", '{"text": "x"}\n{"text": \n'),
        "a.jsonl:2 is no JSON object",
    ),
    Case(
        "corpus", "JSON lines with a list for a text", corpus("a.jsonl", '{"text": ["x"]}\n'), 'field "text" holds list'
    ),
    Case("corpus", "JSON list of strings", corpus("a.json", '["one", "two"]')),
    Case("corpus", "Parquet", corpus("", parquet("a.parquet"))),
    Case(
        "corpus",
        "Parquet without the field",
        corpus("", parquet("a.parquet", [{"body": "x"}])),
        "has no column 'text'; there are body",
    ),
    Case("corpus", "Parquet, cut off", corpus("", lambda f: cut(parquet("a.parquet")(f))), "is no Parquet file"),
    Case("corpus", "a PDF beside", corpus("a.pdf", b"%PDF"), warned="1 .pdf not read"),
    Case(
        "corpus",
        "a link that leads to itself",
        corpus("", lambda f: loop("a.txt")(f)),
        warned="1 links that lead to no file",
    ),
    Case("corpus", "a link to a folder", linked_folder, warned="1 links to folders, which are not followed"),
    Case(
        "corpus",
        "a file beside the domains",
        lambda f: (put("text/loose.txt", "words")(f), corpus("a.txt", "more")(f))[1],
        warned="loose.txt stands in no domain's folder",
    ),
    Case(
        "corpus",
        "a pipe",
        corpus("", lambda f: os.mkfifo(f / "a.txt")),
        warned="1 pipes or devices, which are not read",
    ),
    Case(
        "corpus",
        "JSON lines with a field twice",
        corpus("a.jsonl", '{"text": "x", "text": "y"}\n'),
        "names 'text' twice",
    ),
    Case("corpus", "JSON nested too deeply", corpus("a.json", "[" * 100_000), "nested too deeply"),
    Case(
        "corpus",
        "a number of 5,000 digits",
        corpus("a.json", f'[{{"text": "x", "n": {"9" * 5000}}}]'),
        "more digits than",
    ),
    Case("corpus", "half a character", corpus("a.jsonl", '{"text": "\\ud800"}\n'), "holds half a character, \\ud800"),
    Case(
        "corpus",
        "Parquet with a null",
        corpus("", parquet("a.parquet", [{"text": "x"}, {"text": None}])),
        "a.parquet, row 2: field",
    ),
    Case("corpus", "a file in place of the folder", put("text", "x"), "is no folder"),
    Case("corpus", "a domain without a file", lambda f: folder_of("law")(f).parent, "domain folder"),
)
