"""Preference files as TRL reads them, of one picture a row: prompt, chosen, rejected, images; and our pairs as such a file.

A text is a string, or the turns of a conversation: [{"role": .., "content": text or parts}]. Where `prompt` is left out the
chosen and the rejected conversation begin alike, and that is it. `images` (or `image`) holds one picture: a path, or bytes
as `datasets` keeps them. Format: TRL's "Dataset formats and types", preference with vision.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules.files import TABLES, kind_of, rows
from datamodules.scenes.mvc import PIXEL_LIMIT, Pair, category_of, check_texts, open_image, opened, usable
from lightning_modules.common.files import sha256
from lightning_modules.common.say import reason, say

FIELDS = ("prompt", "chosen", "rejected", "images")


@dataclass(frozen=True)
class Preference:
    """A question about one picture, with an answer that is wanted and one that is not. picture: a path or a file's bytes."""

    instruction: str
    chosen: str
    rejected: str
    picture: Path | bytes
    system: str = ""
    category: str = "all"
    pixel_limit: int = PIXEL_LIMIT
    where: str = ""

    def images(self, pixels: int = 0) -> tuple[Image.Image]:
        """The one picture as it is."""
        if isinstance(self.picture, Path):
            return (open_image(self.picture, pixel_limit=self.pixel_limit),)
        return (opened(io.BytesIO(self.picture), name=self.where, limit=self.pixel_limit),)

    @cached_property
    def checksum(self) -> str:
        return sha256(self.picture) if isinstance(self.picture, Path) else hashlib.sha256(self.picture).hexdigest()


def read(
    path: Path, *, images: Path | None = None, skip_bad: bool = False, pixel_limit: int = PIXEL_LIMIT
) -> tuple[list[Preference], list[str]]:
    """(preferences, why each bad row was left out) of JSON lines or a list, Parquet, or a folder of `datasets`.

    images: what relative paths count from, the file's own folder by default. ValueError naming the row and field of the
    first bad row, unless `skip_bad`; also where no row is good.
    """
    beside = images or (path if path.is_dir() else path.parent)

    def made(where: str, row: dict[str, Any]) -> Preference:
        return _preference(row, beside, where, pixel_limit)

    return usable(path, _rows(path), made, skip_bad=skip_bad, unit="row")


def write(path: Path, pairs: Sequence[Pair]) -> Path:
    """Our pairs for TRL's DPO trainer, as Parquet with the pictures in it: two rows a pair, one for each picture.

    The second row of a pair has the other picture, under which the answers change their places.
    """
    import datasets

    found = []
    for pair in pairs:
        ones, others = (pair.chosen_image, pair.chosen), (pair.rejected_image, pair.rejected)
        for (picture, right), (_, wrong) in ((ones, others), (others, ones)):
            content = [{"type": "image", "text": None}, {"type": "text", "text": pair.instruction}]
            before = [{"role": "system", "content": [{"type": "text", "text": pair.system}]}] * bool(pair.system)
            found.append(
                {
                    "prompt": [*before, {"role": "user", "content": content}],
                    "chosen": [{"role": "assistant", "content": [{"type": "text", "text": right}]}],
                    "rejected": [{"role": "assistant", "content": [{"type": "text", "text": wrong}]}],
                    "images": [{"bytes": picture.read_bytes(), "path": picture.name}],
                    "category": pair.category,
                }
            )
    turns = [{"role": datasets.Value("string"), "content": [{n: datasets.Value("string") for n in ("type", "text")}]}]
    features = dict.fromkeys(("prompt", "chosen", "rejected"), turns)
    features |= {"images": datasets.List(datasets.Image()), "category": datasets.Value("string")}
    datasets.Dataset.from_list(found, features=datasets.Features(features)).to_parquet(str(path))
    return path


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) with pictures as they are kept, not opened."""
    if path.is_file() and kind_of(path) in TABLES:
        yield from rows(path)
        return
    import datasets

    if not path.exists():
        raise ValueError(
            f"{path}: no such file of preferences; expected {', '.join(TABLES)}, .parquet or a folder of datasets."
        )
    try:
        if path.is_dir() and not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
            found = datasets.load_dataset(str(path))
        elif path.is_dir():
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset("parquet", data_files=str(path), split="train")
    except Exception as error:
        cause = error.__cause__ or error
        raise ValueError(f"{path}: not read ({reason(cause)}); expected rows of {', '.join(FIELDS)}.") from None
    table = _one_split(path, found) if isinstance(found, datasets.DatasetDict) else found
    kept = datasets.Image(decode=False)
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, kept)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            table = table.cast_column(name, datasets.List(kept))
    for number, row in enumerate(table, 1):
        yield f"{path}, row {number}", row


def _one_split(path: Path, splits: Any) -> Any:
    """`train`, or the only one. ValueError where it is not known which."""
    names = list(splits)
    if len(names) == 1:
        return splits[names[0]]
    if "train" not in names:
        raise ValueError(f"{path} has the splits {', '.join(names)}; expected one, or one of the name train.")
    say(f"{path}: of the splits {', '.join(names)} only train is read; what is held out is drawn from it.")
    return splits["train"]


def _preference(row: dict[str, Any], images: Path, where: str, limit: int) -> Preference:
    for field in ("chosen", "rejected"):
        if not row.get(field):
            more = " (this looks like MVC's format: data=mvc)" if "chosen_response" in row else ""
            raise ValueError(f"field {field!r} is {row.get(field)!r}; expected text or a conversation{more}.")
    prompt, chosen, rejected = (_turns(row.get(field), field) for field in ("prompt", "chosen", "rejected"))
    if not prompt:
        shared = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if row.get("rejected_images"):
        raise ValueError(
            "field 'rejected_images' holds a second picture; for pairs of two there is MVC's format (data=mvc)."
        )
    asked = [text for role, text in prompt if role == "user"]
    if len(asked) != 1 or len(chosen) != 1 or len(rejected) != 1:
        raise ValueError(
            f"{len(asked)} questions, {len(chosen)} chosen and {len(rejected)} rejected turns; expected one of each: in "
            "field 'prompt' one user turn, in 'chosen' and 'rejected' one answer."
        )
    for field, turns, wanted in (
        ("prompt", prompt, ("user", "system")),
        ("chosen", chosen, ("assistant",)),
        ("rejected", rejected, ("assistant",)),
    ):
        roles = [role for role, _ in turns]
        if not set(roles) <= set(wanted) or roles[-1] != wanted[0]:
            raise ValueError(
                f"field {field!r} has turns of {', '.join(roles)}; expected "
                f"{'one of user, behind system where there is one' if field == 'prompt' else 'one of assistant'}."
            )
    found = Preference(
        instruction=asked[0].strip(),
        chosen=chosen[0][1].strip(),
        rejected=rejected[0][1].strip(),
        picture=_picture(row, images),
        system=" ".join(text for role, text in prompt if role == "system"),
        category=category_of(row),
        pixel_limit=limit,
        where=f"{where}, field 'images'",
    )
    if not found.instruction:
        raise ValueError("field 'prompt' has no text.")
    answers = {"chosen": found.chosen, "rejected": found.rejected}
    check_texts(answers=answers, asked={"prompt": f"{found.system} {found.instruction}"})
    found.images()
    return found


def _turns(value: Any, field: str) -> list[tuple[str, str]]:
    """[(role, text)]; a plain string is one turn."""
    if value is None or value == []:
        return []
    if isinstance(value, str):
        return [("user" if field == "prompt" else "assistant", value)]
    if not isinstance(value, list):
        raise ValueError(f"field {field!r} is {value!r}; expected text or a conversation.")
    found = []
    for turn in value:
        content = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(content, list):
            content = _joined(content, field, asked=turn.get("role") == "user")
        if not isinstance(content, str) or not isinstance(turn.get("role"), str):
            raise ValueError(f"field {field!r} holds the turn {turn!r}; expected its role and content.")
        found.append((turn["role"], content))
    return found


def _joined(parts: list[Any], field: str, *, asked: bool) -> str:
    """The text of a turn's parts, of which one may stand for the picture where something is `asked`."""
    pictures = 0
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        pictures += kind == "image"
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind != "image":
            raise ValueError(
                f"field {field!r} holds the part {part!r}; expected type text with its text, or type image."
            )
    if pictures > asked:
        raise ValueError(
            f"field {field!r} has {pictures} pictures in {'a question' if asked else 'what is no question'}; expected one, "
            "in the question."
        )
    return "".join(texts)


def _picture(row: dict[str, Any], images: Path) -> Path | bytes:
    value = row.get("images") if row.get("images") is not None else row.get("image")
    value = value if isinstance(value, list) else [value]
    one = value[0] if len(value) == 1 else None
    if isinstance(one, dict) and one.get("bytes"):
        if not isinstance(one["bytes"], bytes):
            told = type(one["bytes"]).__name__
            raise ValueError(f"field 'images' holds bytes as {told}; JSON has none: expected a path, or Parquet.")
        return one["bytes"]
    one = one.get("path") if isinstance(one, dict) else one
    if not isinstance(one, str):
        told = f"{len(value)} pictures" if len(value) != 1 else repr(one)
        raise ValueError(f"field 'images' holds {told}; expected one picture, its path or its bytes.")
    return images / one
