"""Folders of text, one a domain."""

import gzip
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
    Case("corpus", "a file in place of the folder", put("text", "x"), "is no folder"),
    Case("corpus", "a domain without a file", lambda f: folder_of("law")(f).parent, "domain folder"),
)
