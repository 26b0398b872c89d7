"""The released MVC file format, read and written: one record a contrasting pair, images by path.

`system_prompt, instruction_prompt, chosen_images, rejected_images, chosen_response, rejected_response`, as a JSON list
or as JSON lines; our own files also carry `category`.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from PIL import Image, ImageOps

from datamodules import files, jsons
from lightning_modules.common.files import write_atomically

T = TypeVar("T")
TEXTS = ("instruction_prompt", "chosen_response", "rejected_response")
IMAGES = ("chosen_images", "rejected_images")
FIELDS = ("system_prompt", "instruction_prompt", *IMAGES, "chosen_response", "rejected_response")
PIXEL_LIMIT = 50_000_000
# What stands for a picture in the texts of the families of transformers.
MARKS = re.compile(
    r"<\|?(image|image_pad|vision_start|IMG_PATCH)\|?>|<(image_soft_token|start_of_image|IMG_CONTEXT)>|\[IMG\]"
)


@dataclass(frozen=True)
class Pair:
    """Two images and the response each of them calls for, to one question."""

    instruction: str
    chosen_image: Path
    rejected_image: Path
    chosen: str
    rejected: str
    system: str = ""
    category: str = "all"
    pixel_limit: int = PIXEL_LIMIT

    def images(self, pixels: int = 0) -> tuple[Image.Image, Image.Image]:
        """Both pictures as they are; `pixels` is the size of what is rendered."""
        limit = self.pixel_limit
        return open_image(self.chosen_image, pixel_limit=limit), open_image(self.rejected_image, pixel_limit=limit)

    def record(self, *, beside: Path) -> dict[str, Any]:
        """As a record of a file in `beside`; images under it by relative path, others by their whole path."""

        def name(path: Path) -> str:
            inside = path.resolve().is_relative_to(beside.resolve())
            return str(path.resolve().relative_to(beside.resolve()) if inside else path.absolute())

        return {
            "system_prompt": self.system,
            "instruction_prompt": self.instruction,
            "chosen_images": [name(self.chosen_image)],
            "rejected_images": [name(self.rejected_image)],
            "chosen_response": self.chosen,
            "rejected_response": self.rejected,
            "category": self.category,
        }


def open_image(path: Path, *, pixel_limit: int = PIXEL_LIMIT, key: str = "data.source") -> Image.Image:
    """The image in RGB and upright, as transformers' `load_image` has it. ValueError as `opened`, and when it is missing."""
    try:
        there = path.is_file()
    except OSError as error:
        raise ValueError(
            f"{str(path)[:200]}: {error.strerror}; expected the path of a picture, not what is in it."
        ) from None
    if not there:
        where = "paths in a file of pairs count from its own folder or data.source.images"
        raise ValueError(f"{path}: no such image{'; ' + where if key == 'data.source' else ''}.")
    return opened(path, name=str(path), limit=pixel_limit, key=key)


def opened(file: Path | BinaryIO, *, name: str, limit: int, key: str = "data.source") -> Image.Image:
    """The image of a file called `name`, in RGB and upright. key: of the config, whose `pixel_limit` is `limit`.

    ValueError naming it when it is unreadable or larger than `limit`, and where turning it into RGB would show something
    else: behind transparency lie colours that nobody sees, 16 bits are cut off at 255, and of several
    frames or pages the first alone is seen.
    """
    if Image.MAX_IMAGE_PIXELS and limit > Image.MAX_IMAGE_PIXELS:
        # Pillow has a limit of its own, above which it would warn, and then refuse, whatever is asked for here.
        Image.MAX_IMAGE_PIXELS = limit
    try:
        with Image.open(file) as image:
            if not (refused := _refused(image, limit, key)):
                upright = ImageOps.exif_transpose(image).convert("RGB")
                # For whoever refuses it later.
                upright.info["file"] = name
                return upright
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} is too large an image ({error}); expected at most {limit:,} pixels ({key}.pixel_limit)."
        ) from None
    except Exception as error:
        # A decoder ends with whatever a damaged file makes it stumble over.
        raise ValueError(f"{name} cannot be read as an image ({error}); expected a PNG, JPEG or the like.") from None
    raise ValueError(f"{name} {refused}.")


def _refused(image: Image.Image, limit: int, key: str) -> str:
    """Why an image is not taken; '' where it is."""
    # The header tells the size; nothing is decoded before this check.
    if image.width * image.height > limit:
        return f"has {image.width} x {image.height} pixels; expected at most {limit:,} in all ({key}.pixel_limit)"
    # A camera's MPO is a JPEG with its preview, or what the other eye sees, behind the picture.
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        return f"has {frames} frames or pages; expected one picture"
    if image.mode.startswith(("I", "F")):
        return f"has {image.mode} pixels of more than 8 bits; expected 8 bits a channel"
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        return "is partly transparent; expected an opaque picture, laid on the ground you mean"
    return ""


def read(
    path: Path, *, images: Path | None = None, skip_bad: bool = False, pixel_limit: int = PIXEL_LIMIT
) -> tuple[list[Pair], list[str]]:
    """(pairs, why each bad record was left out).

    images: what relative image paths count from, the file's own folder by default. ValueError naming line and field of
    the first bad record, unless `skip_bad`; also when no record is good.
    """
    if not path.exists() and not path.is_symlink():
        raise ValueError(f"{path}: no such MVC file; experiment=svco/build_mvc makes one.")

    def made(_where: str, record: Any) -> Pair:
        return _pair(record, images or path.parent, pixel_limit)

    text = files.text(path)
    found = jsons.items(text) if text.lstrip().startswith("[") else jsons.lines(text.split("\n"))
    records = ((f"{path}, line {line}", record) for line, record in found)
    return usable(path, records, made, skip_bad=skip_bad, unit="record")


def usable(
    path: Path, rows: Iterable[tuple[str, Any]], made: Callable[[str, Any], T], *, skip_bad: bool, unit: str
) -> tuple[list[T], list[str]]:
    """(what `made` makes of each place and row, why each bad one was left out). rows: where each stands, and what it is.

    ValueError naming the place of the first bad one, unless `skip_bad`; also where none is good.
    """
    found: list[T] = []
    bad: list[str] = []
    for where, row in rows:
        try:
            found.append(made(where, row))
        except ValueError as error:
            message = f"{where}: {error}"
            if not skip_bad:
                raise ValueError(f"{message} data.source.skip_bad=true leaves such {unit}s out.") from None
            bad.append(message)
    if not found:
        raise ValueError(f"{path} holds no usable {unit}{': ' + bad[0] if bad else ''}.")
    return found, bad


def write(path: Path, pairs: Sequence[Pair]) -> Path:
    """A JSON list, a record a line, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(pair.record(beside=path.parent), ensure_ascii=False) for pair in pairs)
    write_atomically(path, f"[\n{lines}\n]\n")
    return path


def _pair(record: Any, images: Path, limit: int) -> Pair:
    """ValueError naming the field that is none of a pair's, or where it has no contrast or nothing to learn from."""
    if isinstance(record, Exception):
        raise ValueError(f"not JSON ({record}).")
    if not isinstance(record, dict):
        raise ValueError(f"found {type(record).__name__}, expected an object with {', '.join(FIELDS)}.")
    for field in TEXTS:
        if not isinstance(record.get(field), str):
            raise ValueError(f"field {field!r} is {record.get(field)!r}; expected text.")
    if not isinstance(record.get("system_prompt") or "", str):
        raise ValueError(f"field 'system_prompt' is {record['system_prompt']!r}; expected text.")
    for field in IMAGES:
        value = record.get(field)
        value = [value] if isinstance(value, str) else value
        if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)):
            raise ValueError(f"field {field!r} is {record.get(field)!r}; expected a list with the path of one image.")
    chosen, rejected = (record[f][0] if isinstance(record[f], list) else record[f] for f in IMAGES)
    found = Pair(
        system=record.get("system_prompt") or "",
        instruction=record["instruction_prompt"],
        chosen_image=images / chosen,
        rejected_image=images / rejected,
        chosen=record["chosen_response"],
        rejected=record["rejected_response"],
        category=category_of(record),
        pixel_limit=limit,
    )
    answers = {"chosen_response": found.chosen, "rejected_response": found.rejected}
    check_texts(answers=answers, asked={"system_prompt": found.system, "instruction_prompt": found.instruction})
    one, other = found.images()
    if one.size == other.size and one.tobytes() == other.tobytes():
        raise ValueError("fields 'chosen_images' and 'rejected_images' hold the same picture; expected a contrast.")
    return found


def category_of(row: dict[str, Any]) -> str:
    """`all` where a row has none, or null."""
    return "all" if row.get("category") is None else str(row["category"])


def check_texts(*, answers: dict[str, str], asked: dict[str, str]) -> None:
    """By field. ValueError naming it where an answer is empty or a text holds a picture's mark, and without a contrast."""
    for field, text in answers.items():
        if not text.strip():
            raise ValueError(f"field {field!r} is empty; expected an answer.")
    (one, chosen), (other, rejected) = answers.items()
    if chosen.strip() == rejected.strip():
        raise ValueError(f"fields {one!r} and {other!r} are both {chosen!r}; expected a contrast.")
    for field, text in (asked | answers).items():
        if mark := MARKS.search(text):
            raise ValueError(
                f"field {field!r} holds {mark[0]!r}, which stands for a picture to a model; its template puts it in its "
                "place: take it out of the text."
            )
