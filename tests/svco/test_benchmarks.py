"""Published benchmark files, in small, on a tiny model; malformed ones answered by line and field."""

import json

import pytest

from datamodules.scenes import benchmarks as files
from datamodules.scenes.pairs import scenes
from datamodules.scenes.render import render
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.benchmarks import Benchmarks
from tests.svco.toy import tiny_vlm

HEADER = "Index,Question,Options,Correct Answer\n"


@pytest.fixture
def folder(tmp_path):
    for number, scene in enumerate(scenes(count=4, seed=0, stream="unbiased"), start=1):
        render(scene).save(tmp_path / f"{number}.jpg")
    asked = [{"image": f"{n}.jpg", "text": "is there a star ?", "label": "yes" if n % 2 else "no"} for n in range(1, 5)]
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, asked)))
    rows = [f'{n},"what do you see , a star ?",(a) yes (b) no,({"ab"[n % 2]})' for n in range(1, 5)]
    (tmp_path / "mmvp.csv").write_text(HEADER + "\n".join(rows))
    record = {"question": "what do you see ?", "image_src": "https://somewhere/2.jpg", "gt_answer": "a star"}
    (tmp_path / "mmhal.json").write_text(json.dumps([record]))
    return tmp_path


def test_all_three_on_a_tiny_model(folder):
    given = {name: {"file": str(folder / file), "images": str(folder)} for name, file in FILES.items()}
    study = Benchmarks(model=tiny_vlm(), longest=4, **given)
    study.prepare()
    found = study.run(Desk(folder=folder / "run"))
    # Yes to all or no to all gets half of a balanced set, and no pair whose answers differ.
    right = study.right(study.pope)
    assert found["svco/pope_file"] == sum(right) / 4
    says = [r == (i.right == 0) for r, i in zip(right, study.pope, strict=True)]
    assert found["svco/pope_file_yes"] == sum(says) / 4
    pairs = study.right(study.mmvp)
    assert found["svco/mmvp_paired"] == sum(pairs[i] and pairs[i + 1] for i in (0, 2)) / 2
    answers = json.loads((folder / "run" / "tables" / "mmhal_answers.json").read_text())
    assert answers[0]["file"] == "2.jpg" and isinstance(answers[0]["model_answer"], str)


FILES = {"pope": "pope.json", "mmvp": "mmvp.csv", "mmhal": "mmhal.json"}


def test_mmvp_options_and_answers(folder):
    items = files.read_mmvp(folder / "mmvp.csv", folder)
    assert items[0].options == ("(a)", "(b)")
    assert [item.right for item in items] == [1, 0, 1, 0]
    assert items[0].question == "what do you see , a star ? (a) yes (b) no"


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (files.read_pope, '{"image": "1.jpg", "text": "?"}', "line 1: field 'label' is missing"),
        (files.read_pope, '{"image": "1.jpg", "text": "?", "label": "maybe"}', "line 1: field 'label' is 'maybe'"),
        (files.read_pope, "{", "is not JSON lines"),
        (files.read_pope, "", "is empty"),
        (files.read_mmvp, HEADER + "1,who ?,(a) me (b) you,(c)", r"line 2: field 'Correct Answer' is '\(c\)'"),
        (files.read_mmvp, HEADER + "1,,(a) me (b) you,(a)", "line 2: field 'Question' is missing"),
        (files.read_mmvp, HEADER + "1,who ?,(a) me (b) you,(a)", "holds 1 questions; expected pairs"),
        (files.read_mmhal, '[{"question": "?"}]', "field 'image_src' is missing"),
        (files.read_mmhal, "[", "is not JSON"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, read, text, words):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "file", tmp_path)
    with pytest.raises(ValueError, match="no such benchmark file"):
        read(tmp_path / "other", tmp_path)
