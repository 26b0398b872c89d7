"""Benchmark files of real models as they are published: POPE (JSON lines), MMVP (CSV), MMHal (JSON)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules import files


class Item(NamedTuple):
    """A question about an image with the words a model may answer; `right` is the index of the true one."""

    image: Path
    question: str
    options: tuple[str, ...]
    right: int


def _rows(path: Path, fields: Sequence[str], *, kind: str = ".json") -> list[tuple[str, dict[str, str]]]:
    """(place, row) of each, checked for text in `fields`."""
    if not path.is_file():
        raise ValueError(f"{path}: no such benchmark file.")
    rows = list(files.rows(path, kind=kind))
    for where, row in rows:
        if missing := [f for f in fields if row.get(f) in (None, "")]:
            raise ValueError(f"{where}: field {missing[0]!r} is missing; expected {', '.join(fields)}.")
        if wrong := [f for f in fields if not isinstance(row[f], str)]:
            raise ValueError(f"{where}: field {wrong[0]!r} is {row[wrong[0]]!r}; expected text.")
    if not rows:
        raise ValueError(f"{path} has no row below its header; expected rows of {', '.join(fields)}.")
    return rows


def read_pope(path: Path, images: Path) -> list[Item]:
    """POPE's `coco_pope_*.json`: a line `{"image": .., "text": .., "label": "yes"}` a question."""
    rows = _rows(path, ("image", "text", "label"))
    for where, row in rows:
        if row["label"] not in ("yes", "no"):
            raise ValueError(f"{where}: field 'label' is {row['label']!r}; expected yes or no.")
    return [Item(images / r["image"], r["text"], ("yes", "no"), ("yes", "no").index(r["label"])) for _, r in rows]


def read_mmvp(path: Path, images: Path) -> list[Item]:
    """MMVP's `Questions.csv`: Index, Question, Options `(a) Open (b) Closed`, Correct Answer; images are INDEX.jpg.

    Rows 2k and 2k + 1 are a pair: a model gets the point for both or none.
    """
    fields = ("Index", "Question", "Options", "Correct Answer")
    found = []
    for where, row in _rows(path, fields, kind=".csv"):
        marks = re.findall(r"\((\w)\)", row["Options"])
        answer = row["Correct Answer"].strip().strip("()")
        if answer not in marks:
            raise ValueError(
                f"{where}: field 'Correct Answer' is {row['Correct Answer']!r}; expected one of the options "
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
    rows = _rows(path, ("question", "image_src"))
    return [{**row, "file": images / Path(row["image_src"]).name} for _, row in rows]
