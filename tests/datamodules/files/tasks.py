"""Files of tasks: a text and a label a row."""

import gzip
import io
import json
import os
import zipfile
from pathlib import Path

from tests.datamodules.files.laid import (
    Case,
    arrow,
    csv,
    cut,
    folder_of,
    folder_with,
    jsonl,
    labelled,
    loop,
    parquet,
    put,
    rows,
    saved,
)

BROKEN = jsonl().splitlines()
BROKEN[6] = '{"text": "no end, "label": 1}'
# What pandas takes for a missing value, and numbers: texts, where nothing else is meant.
WORDLESS = ["NA", "null", "None", "nan", *map(str, range(56))]


def held(table: str) -> str:
    """A row begins with a quote, and one far below ends with it."""
    last = next(line for line in table.splitlines() if line.startswith("sentence 40"))
    text, mark = last[:-2], last[-2]
    return table.replace("sentence 3 of", '"sentence 3 of').replace(last, f'{text}"{mark}0')


def zipped() -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr("a.csv", csv())
    return into.getvalue()


def linked_to_itself(folder: Path) -> Path:
    made = folder_with("train.csv", csv())(folder)
    os.symlink(made, made / "again")
    return made


TASKS = (
    Case("task", "CSV", put("a.csv", csv())),
    Case("task", "CSV named .CSV", put("a.CSV", csv())),
    Case("task", "CSV, .csv.gz", put("a.csv.gz", lambda: gzip.compress(csv().encode()))),
    Case("task", "CSV with a byte-order mark", put("a.csv", "\ufeff" + csv())),
    Case("task", "CSV with CRLF", put("a.csv", csv(end="\r\n"))),
    Case("task", "CSV with semicolons", put("a.csv", csv(between=";"))),
    Case("task", "TSV", put("a.tsv", csv(between="\t"))),
    Case(
        "task",
        "CSV with quoted commas and line ends",
        put("a.csv", csv([r | {"text": f'"{r["text"]}, and\nmore"'} for r in rows()])),
    ),
    Case("task", "CSV in UTF-16", put("a.csv", csv().encode("utf-16")), "is UTF-16; expected UTF-8"),
    Case(
        "task",
        "CSV in Latin-1",
        put("a.csv", csv().replace("some", "café").encode("latin-1")),
        "is not UTF-8: byte 0xe9 at offset 28 (line 2)",
    ),
    Case(
        "task", "CSV with a NUL byte", put("a.csv", csv().replace("sentence 4 ", "sentence\0 4 ")), "NUL byte at offset"
    ),
    Case("task", "CSV of no bytes", put("a.csv", ""), "is empty; expected a header"),
    Case("task", "CSV of a header alone", put("a.csv", "text,label\n"), "has no row below its header"),
    Case(
        "task",
        "CSV of one column",
        put("a.csv", "text\none\ntwo\n"),
        "data.source.label is 'label'; expected one of text",
    ),
    Case("task", "CSV with a header twice", put("a.csv", "text,label,text\na,1,b\n"), "the header names 'text' twice"),
    Case(
        "task",
        "CSV with a comma too many",
        put("a.csv", csv().replace("sentence 9 of", "sentence 9, of")),
        "line 11: 3 fields; expected 2 (text, label)",
    ),
    Case("task", "CSV with a line of a million letters", put("a.csv", csv() + "x" * 1_000_000 + ",1\n")),
    Case(
        "task",
        "CSV with labels missing",
        put("a.csv", csv(label=lambda n: n or "")),
        "is '0'; expected one of 1",
    ),
    Case(
        "task",
        "CSV with some labels missing",
        put("a.csv", csv() + "no label,\nnone either,\n"),
        warned="2 label missing",
    ),
    Case("task", "CSV with labels 0.0 and 1.0", put("a.csv", csv(label=lambda n: f"{n}.0"))),
    Case(
        "task",
        "CSV cut off in .gz",
        put("a.csv.gz", lambda: gzip.compress(csv().encode())[:-20]),
        "is no whole gzip file",
    ),
    Case("task", "CSV named .gz and not compressed", put("a.csv.gz", csv()), "is no whole gzip file"),
    Case("task", "CSV, in truth JSON", put("a.csv", jsonl()), "expected"),
    Case("task", "CSV with LF and CRLF in turns", put("a.csv", csv().replace(",0\n", ",0\r\n"))),
    Case("task", "CSV of lines that carriage returns end", put("a.csv", csv(end="\r"))),
    Case("task", "CSV with blanks behind labels", put("a.csv", csv(label=lambda n: f"{n}  "))),
    Case(
        "task",
        "CSV with a quote that nobody closes",
        put("a.csv", held(csv())),
        "lines 5 to 42: a quote makes one text",
    ),
    Case(
        "task",
        "TSV with a quote that nobody closes",
        put("a.tsv", held(csv(between="\t"))),
        "lines 5 to 42: a quote makes",
    ),
    Case("task", "CSV, in truth a zip", put("a.csv", zipped), "NUL byte at offset"),
    Case(
        "task",
        "a zip without a file",
        put("a.zip", lambda: b"PK\5\6" + bytes(18)),
        "a .zip file has no columns to read",
    ),
    Case("task", "JSON lines", put("a.jsonl", jsonl())),
    Case(
        "task",
        "JSON lines with a field twice",
        put("a.jsonl", jsonl().replace('"label": 1', '"label": 1, "label": 0')),
        "line 2, column 1: no JSON (an object names 'label' twice)",
    ),
    Case(
        "task",
        "JSON lines with NaN for a label",
        put("a.jsonl", jsonl() + '{"text": "x", "label": NaN}\n'),
        warned="1 label missing",
    ),
    Case(
        "task",
        "JSON lines with 1e999 for a label",
        put("a.jsonl", jsonl() + '{"text": "x", "label": 1e999}\n'),
        warned="1 of another class",
    ),
    Case(
        "task",
        "JSON lines with half a character",
        put("a.jsonl", jsonl() + '{"text": "\\ud800", "label": 1}\n'),
        "line 61, column 1: no JSON (a text holds half a character",
    ),
    Case("task", "JSON list nested too deeply", put("a.json", "[" * 100_000), "nested too deeply"),
    Case(
        "task",
        "JSON with a number of 5,000 digits",
        put("a.jsonl", jsonl() + f'{{"label": {"9" * 5000}}}\n'),
        "line 61, column 1: no JSON (a number of more digits",
    ),
    Case("task", "JSON list with more behind it", put("a.json", json.dumps(rows()) * 2), "more stands behind the list"),
    Case("task", "JSON lines named .json", put("a.json", jsonl())),
    Case("task", "JSON list", put("a.json", json.dumps(rows(), indent=1))),
    Case("task", "JSON list named .jsonl", put("a.jsonl", json.dumps(rows()))),
    Case("task", "JSON lines, one broken", put("a.jsonl", "\n".join(BROKEN)), "line 7, column 20: no JSON"),
    Case("task", "JSON list, broken", put("a.json", json.dumps(rows(), indent=1)[:300]), "no JSON"),
    Case(
        "task",
        "JSON, one object over many lines",
        put("a.json", json.dumps({"rows": 3}, indent=1)),
        "an object must stand on one line",
    ),
    Case("task", "JSON line that is a number", put("a.jsonl", jsonl() + "7\n"), "line 61: int; expected an object"),
    Case("task", "JSON lines with CRLF and blank lines", put("a.jsonl", jsonl().replace("\n", "\r\n\r\n"))),
    Case("task", "JSON labels as floats", put("a.jsonl", jsonl(labelled(float)))),
    Case("task", "JSON labels as true and false", put("a.jsonl", jsonl(labelled(bool)))),
    Case("task", "JSON labels as text", put("a.jsonl", jsonl(labelled(str)))),
    Case(
        "task",
        "JSON labels as lists",
        put("a.jsonl", jsonl(labelled(lambda n: [n]))),
        "line 1 holds list; expected a class's name",
    ),
    Case(
        "task", "JSON texts as lists", put("a.jsonl", jsonl([r | {"text": ["a", "b"]} for r in rows()])), "holds list"
    ),
    Case(
        "task",
        "JSON texts as numbers",
        put("a.jsonl", jsonl([r | {"text": n} for n, r in enumerate(rows())])),
        "holds int",
    ),
    Case(
        "task",
        "JSON null texts and labels",
        put("a.jsonl", jsonl([*rows(), {"text": None, "label": 1}, {"text": "x", "label": None}])),
        warned="1 text missing, 1 label missing",
    ),
    Case(
        "task",
        "JSON lines, every text twice with both labels",
        put("a.jsonl", jsonl([*rows(), *(r | {"label": 1 - r["label"]} for r in rows())])),
        warned="60 rows of train have a text that is there with another class",
    ),
    Case("task", "Parquet", parquet()),
    Case("task", "Parquet with a column of structures", parquet(found=rows(more={"a": [1], "b": {"c": 2}}))),
    Case(
        "task",
        "Parquet with texts in a structure",
        parquet(found=[r | {"text": {"body": "x"}} for r in rows()]),
        "holds dict",
    ),
    Case(
        "task",
        "Parquet with nulls",
        parquet(found=[*rows(), {"text": None, "label": 1}, {"text": "x", "label": None}]),
        warned="1 text missing, 1 label missing",
    ),
    Case(
        "task",
        "Parquet with numbers for texts",
        parquet(found=[r | {"text": n} for n, r in enumerate(rows())]),
        "holds int (row 1)",
    ),
    Case("task", "Parquet named .csv", lambda f: parquet("a.csv")(f), "NUL byte at offset"),
    Case("task", "Parquet, cut off", lambda f: cut(parquet()(f)), "not loaded ("),
    Case("task", "Parquet of no bytes", put("a.parquet", ""), "not loaded ("),
    Case("task", "Arrow", arrow),
    Case("task", "a Dataset of save_to_disk", saved),
    Case("task", "a folder of a file named .CSV", folder_with("TRAIN.CSV", csv())),
    Case(
        "task",
        "a folder of broken JSON lines",
        folder_with("train.jsonl", "\n".join(BROKEN)),
        "line 7, column 20: no JSON",
    ),
    Case("task", "a folder of CSV with semicolons", folder_with("train.csv", csv(between=";"))),
    Case(
        "task",
        "a folder of CSV whose texts are NA and null",
        folder_with("train.csv", "text,label\n" + "".join(f"{t},{n % 2}\n" for n, t in enumerate(WORDLESS))),
    ),
    Case(
        "task",
        "a folder of CSV of several kinds of columns",
        lambda f: (folder_with("one.csv", csv())(f), folder_with("two.csv", csv().replace("label", "class", 1))(f))[1],
        "two.csv has the columns text, class",
    ),
    Case(
        "task",
        "a folder of train.csv and another",
        lambda f: (folder_with("train.csv", csv())(f), folder_with("more.csv", csv())(f))[1],
        warned="not read: more.csv",
    ),
    Case("task", "a folder with a link to itself", linked_to_itself),
    Case("task", "an empty folder", folder_of("nothing"), "an empty folder; expected one with .csv"),
    Case("task", "a folder named like a file", folder_of("a.csv"), "an empty folder"),
    Case("task", "a link that leads to itself", loop("a.csv"), "a link that leads to no file"),
    Case("task", "a text file", put("a.txt", "one\ntwo\n"), "a .txt file has no columns to read; expected .csv"),
    Case("task", "an Excel file", put("a.xlsx", b"PK\3\4"), "a .xlsx file has no columns to read"),
    Case("task", "a file that is not there", lambda f: f / "a.csv", "not loaded ("),
)
