"""Files as people have them, awkward ones: what each reader makes of them. `make files` writes docs/results/files.json.

A case is a reader, a name, what lays the file into a folder and returns its path, and what is expected: `read`, or words
of the refusal. What is read is a task of classes `good` and `bad`, a corpus of one domain, pairs, a picture or a prompt.
"""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import save_file

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


# -- task files
BROKEN = jsonl().splitlines()
BROKEN[6] = '{"text": "no end, "label": 1}'
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
    Case("task", "JSON lines", put("a.jsonl", jsonl())),
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
    Case("task", "an empty folder", folder_of("nothing"), "an empty folder; expected one with .csv"),
    Case("task", "a folder named like a file", folder_of("a.csv"), "an empty folder"),
    Case("task", "a link that leads to itself", loop("a.csv"), "a link that leads to no file"),
    Case("task", "a text file", put("a.txt", "one\ntwo\n"), "a .txt file has no columns to read; expected .csv"),
    Case("task", "an Excel file", put("a.xlsx", b"PK\3\4"), "a .xlsx file has no columns to read"),
    Case("task", "a file that is not there", lambda f: f / "a.csv", "not loaded ("),
)


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


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


def pairs(**change) -> Callable[[Path], Path]:
    """A file of pairs whose first record has `change`; beside it the pictures it names."""

    def make(folder: Path) -> Path:
        found = []
        for n in range(8):
            for side in "ab":
                Image.new("RGB", (8, 8), (n * 9, 100 * (side == "b"), 0)).save(folder / f"{n}{side}.png")
            found.append(
                {
                    "system_prompt": "",
                    "instruction_prompt": "what is it?",
                    "chosen_images": [f"{n}a.png"],
                    "rejected_images": [f"{n}b.png"],
                    "chosen_response": f"red {n}",
                    "rejected_response": f"blue {n}",
                }
            )
        found[0] |= {name: value(folder) if callable(value) else value for name, value in change.items()}
        return put("mvc.json", json.dumps(found, indent=1))(folder)

    return make


def picture(name: str, image: Image.Image | Callable[[], bytes], **settings) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if callable(image):
            (folder / name).write_bytes(image())
        else:
            image.save(folder / name, **settings)
        return folder / name

    return make


def png() -> bytes:
    import io

    held = io.BytesIO()
    Image.effect_noise((32, 32), 60).save(held, "png")
    return held.getvalue()


def half_seen() -> Image.Image:
    image = Image.new("RGBA", (8, 8), (0, 0, 255, 255))
    image.putpixel((0, 0), (9, 9, 9, 0))
    return image


EXIF = Image.Exif()
EXIF[274] = 6
PAIRS = (
    Case("pairs", "MVC", pairs()),
    Case(
        "pairs",
        "MVC as JSON lines",
        lambda f: put("mvc.json", "\n".join(map(json.dumps, json.loads(pairs()(f).read_text()))))(f),
    ),
    Case("pairs", "MVC with a byte-order mark", lambda f: put("mvc.json", "\ufeff" + pairs()(f).read_text())(f)),
    Case("pairs", "MVC in UTF-16", lambda f: put("mvc.json", pairs()(f).read_text().encode("utf-16"))(f), "is UTF-16"),
    Case("pairs", "MVC, cut off", lambda f: cut(pairs()(f)), "not JSON"),
    Case("pairs", "MVC of no bytes", put("mvc.json", ""), "holds no usable record"),
    Case("pairs", "a folder in place of MVC", folder_of("mvc.json"), "a folder; expected a file"),
    Case(
        "pairs",
        "<image> in a question",
        pairs(instruction_prompt="<image> what?"),
        "holds '<image>', which stands for a picture",
    ),
    Case("pairs", "an answer that is missing", pairs(chosen_response=None), "line 2: field 'chosen_response' is None"),
    Case("pairs", "a picture that is missing", pairs(chosen_images=["none.png"]), "none.png: no such image"),
    Case(
        "pairs",
        "two pictures in one field",
        pairs(chosen_images=["0a.png", "0b.png"]),
        "expected a list with the path of one image",
    ),
    Case("picture", "PNG", picture("a.png", png)),
    Case("picture", "PNG, cut off", picture("a.png", lambda: png()[:200]), "cannot be read as an image"),
    Case("picture", "of no bytes", picture("a.jpg", lambda: b""), "cannot be read as an image"),
    Case("picture", "HTML named .jpg", picture("a.jpg", lambda: b"<html>404</html>"), "cannot be read as an image"),
    Case("picture", "CMYK", picture("a.jpg", Image.new("CMYK", (8, 8)))),
    Case("picture", "16 bits", picture("a.png", Image.new("I;16", (8, 8), 300)), "of more than 8 bits"),
    Case("picture", "grey", picture("a.png", Image.new("L", (8, 8), 9))),
    Case("picture", "partly transparent", picture("a.png", half_seen()), "is partly transparent"),
    Case("picture", "a palette, partly transparent", picture("a.gif", half_seen()), "is partly transparent"),
    Case("picture", "turned by EXIF", picture("a.jpg", Image.new("RGB", (8, 4)), exif=EXIF)),
    Case(
        "picture",
        "animated",
        picture("a.gif", Image.new("RGB", (8, 8)), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
        "it has 2 frames; expected one picture",
    ),
    Case("picture", "a folder", folder_of("a.png"), "no such image"),
)


def prompt(name: str, content) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if name.endswith(".pt"):
            torch.save(content, folder / name)
        else:
            save_file(content, folder / name)
        return folder / name

    return make


PROMPTS = (
    Case("prompt", "a bare tensor as .pt", prompt("a.pt", torch.ones(3, 8))),
    Case("prompt", "a bare tensor as .safetensors", prompt("a.safetensors", {"weight": torch.ones(3, 8)})),
    Case(
        "prompt",
        "a healthy .pt of several tensors",
        prompt("a.pt", {"a": torch.ones(3, 8), "b": torch.ones(2)}),
        "holds a [3, 8], b [2]; expected one tensor of prompt tokens x width",
    ),
    Case(
        "prompt",
        "a healthy .pt of one dimension",
        prompt("a.pt", torch.ones(8)),
        "expected one tensor of prompt tokens x width",
    ),
    Case("prompt", "a healthy .pt that holds no tensor", prompt("a.pt", {"lr": 3}), "holds dict; expected one tensor"),
    Case("prompt", "a .pt, cut off", lambda f: cut(prompt("a.pt", torch.ones(99, 8))(f)), "damaged"),
    Case(
        "prompt",
        "a .safetensors, cut off",
        lambda f: cut(prompt("a.safetensors", {"w": torch.ones(99, 8)})(f)),
        "damaged or not safetensors",
    ),
    Case("prompt", "a text file", put("a.txt", "hello"), "damaged or not safetensors"),
    Case("prompt", "a folder without a prompt", folder_of("export"), "not there"),
)
CASES = (*TASKS, *CORPORA, *PAIRS, *PROMPTS)


def read(reader: str, path: Path) -> None:
    """By the reader, as a run does; says what it says."""
    from datamodules.corpus import FolderSource
    from datamodules.scenes import MVCSource, PairsDataModule, mvc
    from datamodules.tasks import Hub
    from lightning_modules.common.say import say
    from lightning_modules.prompt.prompt_file import PromptFile

    if reader == "task":
        sizes = dict(train=20, val=10, test=10)
        words = {"0": "bad", "1": "good"}
        Hub(name="custom", dataset=str(path), text="text", words=words, **sizes).task("custom").intake.tell()
    elif reader == "corpus":
        source = FolderSource(path=str(path))
        for texts in source.documents().values():
            assert list(texts)
        for warning in source.warnings:
            say(warning)
    elif reader == "pairs":
        PairsDataModule(source=MVCSource(file=str(path), val=2, test=2)).prepare_data()
    elif reader == "picture":
        assert mvc.open_image(path).mode == "RGB"
    else:
        assert PromptFile.load(path).weight.shape == (3, 8)
