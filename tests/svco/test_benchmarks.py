"""Published benchmark files, in small, on a tiny model; malformed ones answered by line and field."""

import csv
import json

import pytest
import torch

from datamodules.scenes import benchmarks as files
from datamodules.scenes.benchmarks import Item
from datamodules.scenes.pairs import scenes
from datamodules.scenes.render import render
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.benchmarks import PROTOCOLS, Benchmarks
from lightning_modules.svco.evaluation import greedy
from lightning_modules.svco.grounding import says_no, yes_no
from tests.families.vlm import built
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
    asked = [(item.question, item.image) for item in study.pope["file"]]
    says = [not says_no(text) for text in study.answers(asked, longest=32)]
    assert found["svco/pope_file_yes"] == found["svco/pope_mean_yes"] == sum(says) / 4
    assert found["svco/pope_file_accuracy"] == sum(s == (n % 2 == 1) for n, s in enumerate(says, 1)) / 4
    pairs = study.right(study.mmvp)
    assert found["svco/mmvp_paired"] == sum(pairs[i] and pairs[i + 1] for i in (0, 2)) / 2
    answers = json.loads((folder / "run" / "tables" / "mmhal_answers.json").read_text())
    assert answers[0]["file"] == "2.jpg" and isinstance(answers[0]["model_answer"], str)


PUBLISHED = [
    ("Yes, there is a star in the image.", False),
    ("There is no star. It is a circle.", True),
    ("No, there is not.", True),
    ("no", True),
    ("I see a star. There is no circle.", False),
    ("Nothing of the kind.", False),
    ("The star is not, I think, there", True),
    ("", False),
]


@pytest.mark.parametrize(("answer", "no"), PUBLISHED)
def test_an_answer_is_read_as_the_published_script_reads_it(answer, no):
    assert says_no(answer) == no


def test_the_numbers_of_pope_by_hand():
    """Three yes of which two are right, of four to be found: precision 2/3, recall 1/2, F1 4/7."""
    found = yes_no(says_yes=[1, 1, 1, 0, 0, 0], is_yes=[1, 1, 0, 1, 1, 0])
    assert found == pytest.approx({"accuracy": 0.5, "precision": 2 / 3, "recall": 0.5, "f1": 4 / 7, "yes": 0.5})
    assert yes_no(says_yes=[0, 0], is_yes=[1, 0])["f1"] == 0.0


def splits_of(folder):
    """As published: JSON lines with a question's number, one file a split."""
    for split, labels in {"random": "yn", "popular": "ynyn", "adversarial": "nynnyn"}.items():
        rows = [
            {"question_id": n, "image": f"{n % 4 + 1}.jpg", "text": f"Is there a {split} thing ?", "label": label}
            for n, label in enumerate({"y": "yes", "n": "no"}[letter] for letter in labels)
        ]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {split: str(folder / f"coco_pope_{split}.json") for split in ("random", "popular", "adversarial")}


@pytest.mark.parametrize("how", ["said", "likelier"])
def test_popes_three_splits_and_their_mean(folder, how, monkeypatch):
    study = Benchmarks(model=tiny_vlm(), pope={**splits_of(folder), "images": str(folder)}, pope_answers=how)
    study.prepare()
    # Yes to all but the second question of each file.
    monkeypatch.setattr(study, "answers", lambda asked, longest: ["Yes.", "No, none."] + ["Yes."] * (len(asked) - 2))
    says = {name: [n != 1 for n in range(len(items))] for name, items in study.pope.items()}
    monkeypatch.setattr(study, "right", lambda items: [(n != 1) == (i.right == 0) for n, i in enumerate(items)])
    found = study.run(Desk(folder=folder / how))
    assert found["svco/pope_random_f1"] == 1.0
    assert found["svco/pope_popular_precision"] == pytest.approx(2 / 3)
    assert found["svco/pope_popular_f1"] == pytest.approx(0.8)
    # Of two to be found one is, the second question's is denied.
    assert found["svco/pope_adversarial_recall"] == 0.5
    assert found["svco/pope_adversarial_f1"] == pytest.approx(2 * 0.2 * 0.5 / 0.7)
    assert found["svco/pope_mean_f1"] == pytest.approx((1 + 0.8 + 2 * 0.2 * 0.5 / 0.7) / 3)
    assert found["svco/pope_mean_yes"] == pytest.approx(sum(sum(s) / len(s) for s in says.values()) / 3)
    rows = list(csv.DictReader((folder / how / "tables" / "benchmarks.csv").open()))
    assert {row["protocol"] for row in rows} == {PROTOCOLS[how]}
    answers = list(csv.DictReader((folder / how / "tables" / "pope_answers.csv").open()))
    assert len(answers) == 12 and answers[1]["answer"] == ("No, none." if how == "said" else "no")


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_answers_together_are_answers_alone(folder, family):
    vlm = built(family)
    asked = [(f"what {'is ' * (n % 2)}it ?", folder / f"{n + 1}.jpg") for n in range(4)]
    together, alone = (
        Benchmarks(model=vlm, pope={**splits_of(folder), "images": str(folder)}, batch=batch) for batch in (16, 1)
    )
    found = together.answers(asked, longest=5)
    assert found == alone.answers(asked, longest=5)
    assert len(set(found)) > 1, "else the order is not tested"


@pytest.mark.parametrize("own", [{"repetition_penalty": 1.5}, {"num_beams": 3}, {"no_repeat_ngram_size": 1}])
def test_greedy_answers_are_of_the_likeliest_tokens_whatever_a_models_folder_asks_for(own):
    vlm = tiny_vlm()
    prompts = [vlm.reader.prompt("what do you see ?", render(s)) for s in scenes(count=6, seed=0, stream="unbiased")]
    expected = []
    for prompt, inputs in prompts:
        ids = prompt
        while len(ids) < len(prompt) + 8 and (len(ids) == len(prompt) or ids[-1] != vlm.reader.tokenizer.eos_token_id):
            with torch.no_grad():
                likeliest = vlm.core(input_ids=ids[None], **inputs).logits[0, -1].argmax()
            ids = torch.cat([ids, likeliest[None]])
        expected.append(vlm.reader.text(ids[len(prompt) :]))
    vlm.core.generation_config.update(**own)
    assert greedy(vlm, prompts, longest=8) == expected


def test_pictures_are_as_large_as_the_study_allows_and_there(folder):
    study = Benchmarks(model=tiny_vlm(), pope={**splits_of(folder), "images": str(folder)}, pixel_limit=100)
    for ask in (
        lambda path: study.answers([("?", path)], longest=2),
        lambda path: study.right([Item(path, "?", ("a",), 0)]),
    ):
        with pytest.raises(
            ValueError, match=r"1.jpg has 48 x 48 pixels; expected at most 100 in all \(study.pixel_limit\)"
        ):
            ask(folder / "1.jpg")
        with pytest.raises(ValueError, match=r"none.jpg: no such image\.$"):
            ask(folder / "none.jpg")


def test_a_split_that_pope_has_not_is_named(folder):
    with pytest.raises(ValueError, match="study.pope: a split.*populer.*popular"):
        Benchmarks(model=tiny_vlm(), pope={"populer": str(folder / "pope.json"), "images": str(folder)})


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
        (files.read_pope, "{", "line 1, column 2: no JSON"),
        (files.read_pope, "", "is empty"),
        (files.read_mmvp, HEADER + "1,who ?,(a) me (b) you,(c)", r"line 2: field 'Correct Answer' is '\(c\)'"),
        (files.read_mmvp, HEADER + "1,,(a) me (b) you,(a)", "line 2: field 'Question' is missing"),
        (files.read_mmvp, HEADER + "1,who ?,(a) me (b) you,(a)", "holds 1 questions; expected pairs"),
        (files.read_mmhal, '[{"question": "?"}]', "field 'image_src' is missing"),
        (files.read_mmhal, "[", "the list has no end"),
        (files.read_mmhal, '[{"question": 3, "image_src": "a.jpg"}]', "item 1: field 'question' is 3; expected text"),
        (
            files.read_pope,
            '\n{"image": "a.jpg", "text": "?", "label": "no", "label": "yes"}',
            "line 2, .*names 'label' twice",
        ),
    ],
)
def test_a_malformed_file_is_named(tmp_path, read, text, words):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "file", tmp_path)
    with pytest.raises(ValueError, match="no such benchmark file"):
        read(tmp_path / "other", tmp_path)
