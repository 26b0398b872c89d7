"""What readers leave out is counted by reason, said, and put among a run's tables and tags."""

import csv
import json

import pytest
from PIL import Image

from datamodules.corpus.datamodule import folder_corpus
from datamodules.scenes import MVCSource, PairsDataModule
from datamodules.tasks import Hub
from datamodules.tasks.template import DEFAULTS, Template
from lightning_modules.common.making import watched_by
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.runtime.teller import Teller
from tests.datamodules.test_corpus import SMALL
from tests.prompt import tiny

SIZES = {"train": 300, "val": 50, "test": 40}


class Tags:
    def __init__(self):
        self.found = {}

    def tags(self, tags):
        self.found |= tags


@pytest.fixture
def watched(tmp_path):
    tags = Tags()
    with watched_by(Teller(tags, folder=tmp_path / "run")):
        yield tmp_path / "run" / "tables" / "rows.csv", tags


def table(path):
    return [(r["what"], r["split"], r["class"], int(r["count"])) for r in csv.DictReader(path.open())]


def rows(count, start=0):
    return [{"text": f"text {i}", "label": ("up", "down")[i % 2]} for i in range(start, start + count)]


def task(folder, found, **settings):
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, found)))
    words = {"up": "good", "down": "bad"}
    Hub(name="custom", dataset=str(folder / "mine.jsonl"), text="text", words=words, **settings).task(
        "custom"
    ).intake.tell()


def test_rows_of_a_task_by_reason(tmp_path, watched, capsys):
    more = [
        *rows(3),
        {"text": "text 0", "label": "down"},
        {"text": "new", "label": None},
        {"text": None, "label": "up"},
        {"text": "  ", "label": "up"},
        {"text": "other", "label": "sideways"},
        {"label": "up"},
    ]
    task(tmp_path, [*rows(400), *more], **SIZES)
    path, tags = watched
    found = table(path)
    assert found[:1] == [("read", "", "", 409)]
    left = {what.removeprefix("left out: "): count for what, _, _, count in found if what.startswith("left out")}
    assert left == {
        "text there already": 3,
        "text there already, of another class": 1,
        "label missing": 1,
        "text missing": 2,
        "text empty": 1,
        "of another class": 1,
        "more than its split or the rarest class has room for": 10,
    }
    assert {row[1:] for row in found if row[0] == "taken"} == {
        (split, name, count // 2) for split, count in SIZES.items() for name in ("up", "down")
    }
    said = capsys.readouterr().err
    assert "19 of 409 rows left out (10 more than" in said
    assert "1 rows of train have a text that is there with another class" in said
    assert "the test split has 40 rows; below 50 its numbers say little" in said
    assert tags.found["data.left_out"] == "19"
    assert "below 50" in tags.found["data.said"]


def test_a_rare_class_that_shrinks_training_is_warned_of(tmp_path, capsys):
    rare = [r for r in rows(400) if r["label"] == "up"] + [r for r in rows(20) if r["label"] == "down"]
    task(tmp_path, rare, train=300, val=50, test=50)
    assert (
        "class 'down' has 10 rows and another 200: splits hold equally many of each class, so training has 14 rows"
        in (capsys.readouterr().err)
    )
    task(tmp_path, rows(400), train=300, val=50, test=50)
    assert capsys.readouterr().err == "", "nothing to say"


def test_texts_that_do_not_fit_are_counted():
    class Letters:
        pad_token_id, sep_token_id, mask_token_id = 0, 1, 2

        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [list(range(3, 3 + len(t))) for t in texts]}

    found = Template(DEFAULTS["masked"], "masked", 2, 10).encode(["a" * 6, "a" * 7, "a" * 90], Letters())
    assert found["cut"] == 2
    assert max(map(len, found["rows"])) == 10


def test_documents_of_a_corpus_by_domain_in_a_later_run_too(tmp_path, watched):
    for domain in ("law", "poems"):
        (tmp_path / "text" / domain).mkdir(parents=True)
        for i in range(60):
            (tmp_path / "text" / domain / f"{i}.txt").write_text(f"{domain} text number {i} has its own words {i * i}")
    (tmp_path / "text" / "poems" / "again.txt").write_text((tmp_path / "text" / "law" / "7.txt").read_text())
    (tmp_path / "text" / "poems" / "blank.txt").write_text(" \n")
    (tmp_path / "text" / "poems" / "scan.pdf").write_bytes(b"%PDF")
    (tmp_path / "text" / "poems" / "59.txt").write_text("one poem <|endoftext|> another poem")
    for _ in range(2):
        path, tags = watched
        path.unlink(missing_ok=True)
        with watched_by(Teller(tags, folder=path.parents[1])):
            folder_corpus(path=str(tmp_path / "text"), cache_dir=str(tmp_path / "cache"), **SMALL).prepare_data()
        found = table(path)
        assert ("read", "", "", 122) in found
        assert ("left out: there already in law", "", "poems", 1) in found
        assert ("left out: empty", "", "poems", 1) in found
        assert sum(count for what, _, domain, count in found if (what, domain) == ("taken", "law")) == 60
        assert "1 .pdf not read" in tags.found["data.said"]
        assert "1 documents of poems hold '<|endoftext|>' or the like" in tags.found["data.said"]


def test_pairs_by_field_and_those_that_contradict_each_other(tmp_path, watched):
    for i in range(12):
        Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(tmp_path / f"{i}.png")
    found = [
        {
            "system_prompt": "",
            "instruction_prompt": "what is it?",
            "chosen_images": [f"{i}.png"],
            "rejected_images": [f"{i + 1}.png"],
            "chosen_response": f"number {i}",
            "rejected_response": f"number {i + 1}",
        }
        for i in range(0, 12, 2)
    ]
    swapped = {**found[0], "chosen_response": "number 1", "rejected_response": "number 0"}
    turned = {**found[2], "chosen_images": ["5.png"], "rejected_images": ["4.png"]}
    (tmp_path / "mvc.json").write_text(json.dumps([*found, swapped, turned, {**found[1], "chosen_response": 3}]))
    source = MVCSource(file=str(tmp_path / "mvc.json"), val=2, test=2, skip_bad=True)
    PairsDataModule(source=source).prepare_data()
    path, tags = watched
    assert ("left out: malformed in 'chosen_response'", "", "", 1) in table(path)
    assert sum(row[3] for row in table(path) if row[0] == "taken") == 8
    assert "2 pairs give two pictures the responses" in tags.found["data.said"]
    assert "line 1: field 'chosen_response' is 3" in tags.found["data.said"]


def test_texts_that_hold_a_token_of_the_models_own_are_counted(tmp_path, watched):
    data = tiny.data(HubBackbone(name=tiny.save("bert", tmp_path / "model")))
    data.task.texts["test"][0] += " <mask>"
    data.examples("val")
    assert "hold" not in watched[1].found.get("data.said", "")
    data.examples("test")
    assert "1 texts of test hold '<mask>' or the like" in watched[1].found["data.said"]
