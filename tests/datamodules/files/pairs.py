"""Files of pairs and the pictures that they name."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.datamodules.files.laid import Case, cut, folder_of, put


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
    held = io.BytesIO()
    Image.effect_noise((32, 32), 60).save(held, "png")
    return held.getvalue()


def avif() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "avif")
    return held.getvalue()[:150] + bytes(200)


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
    Case(
        "pairs",
        "two lists, one behind the other",
        lambda f: put("mvc.json", pairs()(f).read_text() * 2)(f),
        "line 98: not JSON (more stands behind the list",
    ),
    Case(
        "pairs",
        "an answer twice in a record",
        lambda f: put("mvc.json", pairs()(f).read_text().replace('"red 0"', '"red 0", "chosen_response": "green"'))(f),
        "an object names 'chosen_response' twice",
    ),
    Case(
        "pairs", "half a character in an answer", pairs(chosen_response="red \ud83d"), "holds half a character, \\ud83d"
    ),
    Case(
        "pairs", "a system prompt in a list", pairs(system_prompt=["be brief"]), "field 'system_prompt' is ['be brief']"
    ),
    Case("pairs", "JSON nested too deeply", put("mvc.json", "[" * 100_000), "nested too deeply"),
    Case("pairs", "MVC, .gz", lambda f: put("mvc.json.gz", gzip.compress(pairs()(f).read_bytes()))(f)),
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
        "has 2 frames or pages; expected one picture",
    ),
    Case(
        "picture",
        "a camera's, with its preview behind it",
        picture(
            "a.jpg", Image.new("RGB", (8, 8)), format="MPO", save_all=True, append_images=[Image.new("RGB", (2, 2))]
        ),
    ),
    Case(
        "picture",
        "TIFF of two pages",
        picture("a.tif", Image.new("RGB", (8, 8)), save_all=True, append_images=[Image.new("RGB", (8, 8), "red")]),
        "has 2 frames or pages",
    ),
    Case("picture", "AVIF, damaged", picture("a.avif", avif), "cannot be read as an image"),
    Case("picture", "netpbm, damaged", picture("a.ppm", lambda: b"P6 2x 4 255\n"), "cannot be read as an image"),
    Case("picture", "a name of 300 letters", lambda f: f / ("a" * 300), "File name too long"),
    Case("picture", "a folder", folder_of("a.png"), "no such image"),
)
