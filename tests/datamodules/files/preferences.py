"""Preferences in TRL's format."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.datamodules.files.laid import Case, jsonl, parquet, put


def rows_of(folder: Path, change: dict) -> list[dict]:
    """Eight rows, the first of them with `change`; the pictures that they name lie in `folder`."""
    found = []
    for n in range(8):
        Image.new("RGB", (8, 8), (n * 9, 0, 0)).save(folder / f"{n}.png")
        found.append({"prompt": "what?", "chosen": f"red {n}", "rejected": f"blue {n}", "images": [f"{n}.png"]})
    found[0] |= change
    return found


def preferences(**change) -> Callable[[Path], Path]:
    return lambda folder: put("mine.jsonl", jsonl(rows_of(folder, change)))(folder)


def turn(role: str, content) -> dict:
    return {"role": role, "content": content}


def chat(*before, answer=None) -> Callable[[Path], Path]:
    """Preferences whose first row is a conversation: these turns, and answers."""
    answers = [answer or turn("assistant", "red")], [turn("assistant", "blue")]
    return preferences(prompt=list(before), chosen=answers[0], rejected=answers[1])


def by_split(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        found = rows_of(folder, {})
        for row in found:
            row["images"] = [str(folder / row["images"][0])]
        for name in names:
            put(f"data/{name}.jsonl", jsonl(found))(folder)
        return folder / "data"

    return make


def with_a_null(folder: Path) -> Path:
    return parquet(found=[*rows_of(folder, {}), {"prompt": "what?", "chosen": None}])(folder)


PICTURE, QUESTION = {"type": "image"}, {"type": "text", "text": "what?"}
PREFERENCES = (
    Case("preferences", "JSON lines", preferences()),
    Case("preferences", "a conversation of parts", chat(turn("user", [PICTURE, QUESTION]))),
    Case(
        "preferences",
        "the question in both answers",
        preferences(
            prompt=None,
            chosen=[turn("user", [PICTURE, QUESTION]), turn("assistant", "red")],
            rejected=[turn("user", [PICTURE, QUESTION]), turn("assistant", "blue")],
        ),
    ),
    Case(
        "preferences",
        "a greeting before the question",
        chat(turn("assistant", "hello"), turn("user", "what?")),
        "field 'prompt' has turns of assistant, user; expected one of user",
    ),
    Case("preferences", "a tool's turn", chat(turn("user", "what?"), turn("tool", "42")), "has turns of user, tool"),
    Case("preferences", "turns of human and gpt", chat(turn("human", "what?")), "0 questions, 1 chosen"),
    Case(
        "preferences",
        "an answer by the user",
        chat(turn("user", "what?"), answer=turn("user", "red")),
        "field 'chosen' has turns of user; expected one of assistant",
    ),
    Case(
        "preferences",
        "two pictures in a question",
        chat(turn("user", [PICTURE, PICTURE, QUESTION])),
        "has 2 pictures in a question",
    ),
    Case(
        "preferences",
        "a picture in an answer",
        chat(turn("user", "what?"), answer=turn("assistant", [PICTURE, QUESTION])),
        "has 1 pictures in what is no question",
    ),
    Case(
        "preferences",
        "parts of another kind",
        chat(turn("user", [{"type": "image_url", "image_url": "x"}, QUESTION])),
        "holds the part {'type': 'image_url'",
    ),
    Case(
        "preferences",
        "a text of parts that is a number",
        chat(turn("user", [{"type": "text", "text": 5}])),
        "holds the part {'type': 'text', 'text': 5}",
    ),
    Case(
        "preferences", "an answer that is a number", preferences(chosen=5), "line 1: field 'chosen' is 5; expected text"
    ),
    Case("preferences", "an answer that is NaN", preferences(chosen=float("nan")), "field 'chosen' is nan"),
    Case(
        "preferences",
        "a second picture",
        preferences(rejected_images=["1.png"]),
        "for pairs of two there is MVC's format",
    ),
    Case(
        "preferences",
        "bytes of a picture in JSON",
        preferences(images=[{"bytes": "aGVsbG8="}]),
        "holds bytes as str; JSON has none",
    ),
    Case(
        "preferences",
        "a picture in a data URI",
        preferences(images=["data:image/png;base64," + "A" * 5000]),
        "File name too long; expected the path of a picture",
    ),
    Case("preferences", "Parquet with a null", with_a_null, "row 9: field 'chosen' is None"),
    Case(
        "preferences",
        "a folder of train and test",
        by_split("train", "test"),
        warned="of the splits train, test only train is read",
    ),
    Case(
        "preferences",
        "a folder of test and validation",
        by_split("validation", "test"),
        "expected one, or one of the name train",
    ),
    Case(
        "preferences",
        "JSON list, cut off",
        lambda f: put("mine.json", json.dumps(rows_of(f, {}))[:-1])(f),
        "the list has no end: the file is cut off",
    ),
)
