"""Benchmark files of real models as they are published: POPE (JSON lines), MMVP (CSV), MMHal (JSON)."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Item(NamedTuple):
    """A question about an image with the words a model may answer; `right` is the index of the true one."""

    image: Path
    question: str
    options: tuple[str, ...]
    right: int


def _rows(path: Path, fields: Sequence[str], rows: Sequence[Any], first: int) -> list[dict[str, Any]]:
    """`rows` as they are, each checked for `fields`; line numbers count from `first`."""
    for line, row in enumerate(rows, start=first):
        missing = [f for f in fields if not isinstance(row, dict) or row.get(f) in (None, "")]
        if missing:
            raise ValueError(f"{path}, line {line}: field {missing[0]!r} is missing; expected {', '.join(fields)}.")
    if not rows:
        raise ValueError(f"{path} is empty; expected rows of {', '.join(fields)}.")
    return list(rows)


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such benchmark file.")
    return path.read_text()


def read_pope(path: Path, images: Path) -> list[Item]:
    """POPE's `coco_pope_*.json`: a line `{"image": .., "text": .., "label": "yes"}` a question."""
    lines = _text(path).splitlines()
    try:
        parsed = [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON lines ({error}); expected POPE's format.") from None
    rows = _rows(path, ("image", "text", "label"), parsed, 1)
    for line, row in enumerate(rows, start=1):
        if row["label"] not in ("yes", "no"):
            raise ValueError(f"{path}, line {line}: field 'label' is {row['label']!r}; expected yes or no.")
    return [Item(images / r["image"], r["text"], ("yes", "no"), ("yes", "no").index(r["label"])) for r in rows]


def read_mmvp(path: Path, images: Path) -> list[Item]:
    """MMVP's `Questions.csv`: Index, Question, Options `(a) Open (b) Closed`, Correct Answer; images are INDEX.jpg.

    Rows 2k and 2k + 1 are a pair: a model gets the point for both or none.
    """
    fields = ("Index", "Question", "Options", "Correct Answer")
    reader = csv.DictReader(_text(path).splitlines(), skipinitialspace=True)
    rows = _rows(path, fields, list(reader), 2)
    found = []
    for line, row in enumerate(rows, start=2):
        marks = re.findall(r"\((\w)\)", row["Options"])
        answer = row["Correct Answer"].strip().strip("()")
        if answer not in marks:
            raise ValueError(
                f"{path}, line {line}: field 'Correct Answer' is {row['Correct Answer']!r}; expected one of the options "
                f"{row['Options']!r}."
            )
        question = f"{row['Question']} {row['Options']}"
        options = tuple(f"({mark})" for mark in marks)
        found.append(Item(images / f"{row['Index']}.jpg", question, options, marks.index(answer)))
    if len(found) % 2:
        raise ValueError(f"{path} holds {len(found)} questions; expected pairs.")
    return found


def read_mmhal(path: Path, images: Path) -> list[dict[str, Any]]:
    """MMHal-Bench's `response_template.json`, each record with `file`, the image that its `image_src` ends in."""
    try:
        parsed = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); expected MMHal's list of records.") from None
    rows = _rows(path, ("question", "image_src"), parsed, 1)
    return [{**row, "file": images / Path(row["image_src"]).name} for row in rows]
