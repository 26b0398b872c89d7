"""The MVC file: written and read back; every malformed record answered by line and field."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from datamodules.scenes import MVCSource, mvc

GOOD = {
    "system_prompt": "",
    "instruction_prompt": "What is there?",
    "chosen_images": ["a.png"],
    "rejected_images": ["b.png"],
    "chosen_response": "A red one.",
    "rejected_response": "A blue one.",
}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "b.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "same.png")
    Image.new("RGB", (40, 50)).save(tmp_path / "large.png")
    half = Image.new("RGBA", (8, 8), (0, 0, 255, 255))
    half.putpixel((0, 0), (9, 9, 9, 0))
    half.save(tmp_path / "half.png")
    Image.new("I;16", (8, 8), 300).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    return tmp_path


def write(folder, *records, lines=False):
    path = folder / "mvc.json"
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(list(records), indent=1)
    path.write_text(text)
    return path


@pytest.mark.parametrize("lines", [False, True])
def test_a_file_comes_back_as_it_was_written(folder, lines):
    pairs, bad = mvc.read(write(folder, GOOD, {**GOOD, "instruction_prompt": "And here?"}, lines=lines))
    assert bad == []
    again, _ = mvc.read(mvc.write(folder / "again.json", pairs))
    assert again == pairs
    assert json.loads((folder / "again.json").read_text())[0] == {**GOOD, "category": "all"}


def test_a_category_that_is_null_is_none(folder):
    (pair,), _ = mvc.read(write(folder, {**GOOD, "category": None}))
    assert pair.category == "all"


def test_pictures_elsewhere_are_found_from_wherever_their_file_is_read(folder, tmp_path_factory, monkeypatch):
    pairs, _ = mvc.read(write(folder, GOOD))
    monkeypatch.chdir(folder)
    here = [dataclasses.replace(p, chosen_image=Path("a.png"), rejected_image=Path("b.png")) for p in pairs]
    written = mvc.write(tmp_path_factory.mktemp("elsewhere") / "pairs.json", here)
    monkeypatch.chdir("/")
    (again,), _ = mvc.read(written)
    assert (again.chosen_image, again.rejected_image) == (folder / "a.png", folder / "b.png")


BAD = [
    ({"chosen_response": None}, "'chosen_response' is None"),
    ({"chosen_response": "  "}, "'chosen_response' is empty"),
    ({"rejected_response": ""}, "'rejected_response' is empty"),
    ({"instruction_prompt": 3}, "'instruction_prompt' is 3; expected text"),
    ({"chosen_images": []}, "'chosen_images' is []; expected a list with the path of one image"),
    ({"chosen_images": ["a.png", "b.png"]}, "'chosen_images' is"),
    ({"rejected_images": 7}, "'rejected_images' is 7"),
    ({"rejected_images": ["none.png"]}, "none.png: no such image"),
    ({"rejected_images": ["broken.png"]}, "broken.png cannot be read as an image"),
    ({"rejected_images": ["cut.png"]}, "cut.png cannot be read as an image"),
    ({"rejected_images": ["large.png"]}, "large.png has 40 x 50 pixels; expected at most 1,000"),
    ({"rejected_images": ["half.png"]}, "half.png is partly transparent; expected an opaque picture"),
    ({"rejected_images": ["deep.png"]}, "deep.png has I;16 pixels of more than 8 bits"),
    ({"instruction_prompt": "<image> What?"}, "'instruction_prompt' holds '<image>', which stands for a picture"),
    ({"chosen_response": "A <|image_pad|> one."}, "'chosen_response' holds '<|image_pad|>'"),
    ({"rejected_images": ["same.png"]}, "hold the same picture"),
    ({"rejected_images": ["a.png"]}, "hold the same picture"),
    ({"rejected_response": "A red one. "}, "are both 'A red one.'"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[w for _, w in BAD])
def test_a_bad_record_is_named_by_line_and_field_and_can_be_left_out(folder, change, words):
    path = write(folder, GOOD, {**GOOD, **change}, GOOD, lines=True)
    with pytest.raises(ValueError, match="line 2: ") as error:
        mvc.read(path, pixel_limit=1000)
    assert words in str(error.value)
    assert "data.source.skip_bad=true" in str(error.value)
    pairs, bad = mvc.read(path, skip_bad=True, pixel_limit=1000)
    assert len(pairs) == 2
    assert len(bad) == 1 and words in bad[0]


def test_a_bomb_is_refused_before_it_is_decoded_and_the_limit_is_ours(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    # Pillow refuses what has more than twice as many as its own limit.
    assert mvc.open_image(folder / "large.png", pixel_limit=2000).size == (40, 50)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it was decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(
        ValueError, match="large.png is too large an image .* at most 400 pixels .data.source.pixel_limit"
    ):
        mvc.open_image(folder / "large.png", pixel_limit=400)
    with pytest.raises(ValueError, match="large.png has 40 x 50 pixels; expected at most 1,999"):
        mvc.open_image(folder / "large.png", pixel_limit=1999)


def test_what_is_no_record_and_no_json(folder):
    path = folder / "mvc.json"
    path.write_text(f"{json.dumps(GOOD)}\n{{broken\n[1]\n")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        mvc.read(path)
    path.write_text(f"{json.dumps(GOOD)}\n3\n")
    with pytest.raises(ValueError, match="line 2: found int, expected an object"):
        mvc.read(path)
    path.write_text(f"[\n{json.dumps(GOOD)},\n{{broken\n]")
    with pytest.raises(ValueError, match="line 3: not JSON"):
        mvc.read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no usable record"):
        mvc.read(path)
    with pytest.raises(ValueError, match="no such MVC file"):
        mvc.read(folder / "other.json")


def test_pictures_are_upright_and_opaque_alpha_is_none(tmp_path):
    turned = Image.new("RGB", (8, 4), (255, 0, 0))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert mvc.open_image(tmp_path / "turned.jpg").size == (4, 8)
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    assert mvc.open_image(tmp_path / "opaque.png").getpixel((0, 0)) == (1, 2, 3)


def many(folder, count=40, shared=()):
    """A file of `count` pairs with pictures of their own, but for the pairs of `shared`, which have one in common."""
    records = []
    for n in range(count):
        for side in (0, 1):
            Image.new("RGB", (8, 8), (n, side, 0)).save(folder / f"{n}-{side}.png")
        one = shared[0] if n in shared else n
        records.append({**GOOD, "chosen_images": [f"{one}-0.png"], "rejected_images": [f"{n}-1.png"]})
    return str(write(folder, *records))


def test_held_out_pairs_are_drawn_and_no_picture_is_in_two_splits(tmp_path):
    file = many(tmp_path, shared=(1, 5, 20, 33))
    source = MVCSource(file=file, val=6, test=8)
    splits = {name: source.pairs(name) for name in ("train", "val", "test")}
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 26, "val": 6, "test": 8}
    shown = {n: {q for p in pairs for q in (p.chosen_image, p.rejected_image)} for n, pairs in splits.items()}
    assert not shown["train"] & shown["val"] and not (shown["train"] | shown["val"]) & shown["test"]
    assert MVCSource(file=file, val=6, test=8).pairs("test") == splits["test"]
    assert MVCSource(file=file, val=6, test=8, seed=1).pairs("test") != splits["test"]
    with pytest.raises(ValueError, match="which make 0 train, 20 val, 20 test"):
        MVCSource(file=file, val=20, test=20).pairs("train")


def test_pictures_belong_to_what_a_file_is(tmp_path):
    before = MVCSource(file=many(tmp_path), val=6, test=8).description()
    assert MVCSource(file=str(tmp_path / "mvc.json"), val=6, test=8).description() == before
    Image.new("RGB", (8, 8), (77, 77, 77)).save(tmp_path / "3-0.png")
    changed = MVCSource(file=str(tmp_path / "mvc.json"), val=6, test=8).description()
    assert changed != before
    for one, other in (("4-0.png", "aside"), ("5-0.png", "4-0.png"), ("aside", "5-0.png")):
        (tmp_path / one).rename(tmp_path / other)
    swapped = MVCSource(file=str(tmp_path / "mvc.json"), val=6, test=8).description()
    assert swapped != changed, "the same pictures under each other's names are other pairs"
    with pytest.raises(ValueError, match=r"8 x 8 pixels; expected at most 10 in all \(data.source.pixel_limit\)"):
        MVCSource(file=str(tmp_path / "mvc.json"), pixel_limit=10).pairs("test")
