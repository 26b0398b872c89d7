"""The MVC file: written and read back; every malformed record answered by line and field."""

import json

import pytest
from PIL import Image

from datamodules.scenes import mvc

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
    assert "data.skip_bad=true" in str(error.value)
    pairs, bad = mvc.read(path, skip_bad=True, pixel_limit=1000)
    assert len(pairs) == 2
    assert len(bad) == 1 and words in bad[0]


def test_a_bomb_is_refused_before_it_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match="large.png is too large an image"):
        mvc.open_image(folder / "large.png")


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
