"""Preference files in TRL's format: read in every form, trained on with one picture; ours as such a file."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.scenes import PairsDataModule, PreferenceSource, mvc, preferences
from lightning_modules.svco.evaluation import evaluate_pairs
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.module import SVCO
from lightning_modules.training.inner import inner_trainer
from tests.svco.test_mvc import many
from tests.svco.toy import tiny_vlm

COUNT = 20
DPO = {"text": 0.1}


def answer(text):
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def plain(n):
    return {
        "prompt": f"what is it {n} ?",
        "chosen": f"a red circle {n} .",
        "rejected": "a blue star .",
        "images": [f"{n}.png"],
    }


def conversational(n):
    row = plain(n)
    asked = [{"type": "image"}, {"type": "text", "text": row["prompt"]}]
    return {
        **row,
        "prompt": [{"role": "user", "content": asked}],
        **{side: answer(row[side]) for side in ("chosen", "rejected")},
    }


def implicit(n):
    row = conversational(n)
    both = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
    return {**both, "images": row["images"]}


@pytest.fixture
def folder(tmp_path):
    for n in range(COUNT):
        Image.new("RGB", (8, 8), (n * 9, 0, 40)).save(tmp_path / f"{n}.png")
    return tmp_path


def with_bytes(folder):
    import datasets

    rows = [plain(n) | {"images": [{"bytes": (folder / f"{n}.png").read_bytes(), "path": None}]} for n in range(COUNT)]
    text = {name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")}
    return datasets.Dataset.from_list(
        rows, features=datasets.Features(text | {"images": datasets.List(datasets.Image())})
    )


def laid(folder, form):
    if form in ("parquet", "save_to_disk"):
        table, path = with_bytes(folder), folder / f"data.{form}"
        table.to_parquet(str(path)) if form == "parquet" else table.save_to_disk(str(path))
        return path
    make = {"plain": plain, "conversational": conversational, "implicit": implicit, "list": plain}[form]
    path = folder / ("data.json" if form == "list" else "data.jsonl")
    rows = [make(n) for n in range(COUNT)]
    path.write_text(json.dumps(rows) if form == "list" else "\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("form", ["plain", "list", "conversational", "implicit", "parquet", "save_to_disk"])
def test_every_form_is_the_same_preferences(folder, form, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    datasets.disable_progress_bars()
    found, bad = preferences.read(laid(folder, form))
    assert bad == [] and len(found) == COUNT
    assert (found[3].instruction, found[3].chosen) == ("what is it 3 ?", "a red circle 3 .")
    assert found[3].images()[0].getpixel((0, 0)) == (27, 0, 40)
    assert len({p.checksum for p in found}) == COUNT


BAD = [
    ({"chosen": None}, "field 'chosen' is None; expected text or a conversation"),
    ({"rejected": "a red circle 1 ."}, "are both 'a red circle 1 .'"),
    ({"images": []}, "field 'images' holds 0 pictures; expected one picture"),
    ({"images": ["1.png", "2.png"]}, "field 'images' holds 2 pictures"),
    ({"images": ["none.png"]}, "none.png: no such image"),
    ({"prompt": "<image> what?"}, "field 'prompt' holds '<image>', which stands for a picture"),
    (
        {"prompt": [{"role": "system", "content": "[IMG]"}, {"role": "user", "content": "what ?"}]},
        "field 'prompt' holds '[IMG]', which stands for a picture",
    ),
    ({"chosen": " "}, "field 'chosen' is empty"),
    ({"prompt": [{"role": "user"}]}, "expected its role and content"),
    ({"chosen": [*answer("a"), *answer("b")]}, "2 chosen and 1 rejected turns; expected one of each"),
    ({"chosen": None, "chosen_response": "x"}, "this looks like MVC's format: data=mvc"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[w for _, w in BAD])
def test_a_bad_row_is_named(folder, change, words):
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps(plain(n) | (change if n == 1 else {})) for n in range(3)))
    with pytest.raises(ValueError, match="data.jsonl, line 2: ") as error:
        preferences.read(path)
    assert words in str(error.value)
    found, bad = preferences.read(path, skip_bad=True)
    assert len(found) == 2 and words in bad[0]


@pytest.mark.parametrize("form", ["plain", "parquet"])
def test_pictures_by_path_and_by_bytes_are_as_large_as_is_allowed(folder, form, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    file = str(laid(folder, form))
    with pytest.raises(ValueError, match=r"8 x 8 pixels; expected at most 60 in all \(data.source.pixel_limit\)"):
        PreferenceSource(file=file, val=4, test=4, pixel_limit=60).pairs("train")
    assert PreferenceSource(file=file, val=4, test=4, pixel_limit=64).pairs("train")


def test_copies_of_a_picture_are_one_picture(folder):
    """Under other names: held-out rows are drawn by what is seen."""
    for n in range(1, COUNT, 2):
        shutil.copy(folder / f"{n - 1}.png", folder / f"{n}.png")
    source = PreferenceSource(file=str(laid(folder, "plain")), val=4, test=4)
    shown = [{pair.checksum for pair in source.pairs(name)} for name in ("train", "val", "test")]
    assert sum(map(len, shown)) == len(set.union(*shown)) == COUNT // 2
    again = PreferenceSource(file=source.name, val=4, test=4, seed=1)
    assert {p.checksum for p in again.pairs("test")} != shown[2], "drawn by the seed"


def fit(folder, objective):
    data = PairsDataModule(source=PreferenceSource(file=str(laid(folder, "plain")), val=4, test=4), global_batch=4)
    module = SVCO(model=tiny_vlm(), objective=objective, optimizer={"lr": 1e-3, "warmup_steps": 1})
    trainer = inner_trainer(max_steps=2, limit_val_batches=None, val_check_interval=2, check_val_every_n_epoch=None)
    trainer.fit(module, datamodule=data)
    return module, data, trainer


@pytest.mark.parametrize("objective", [Objective(betas=DPO), Objective(nll={"ww": 1.0})])
def test_an_objective_of_one_picture_trains_and_is_judged(folder, objective):
    module, data, trainer = fit(folder, objective)
    held_out = data.source.pairs("val")
    found = evaluate_pairs(module.vlm, pairs=held_out)
    right = (found.scores["ww"] > found.scores["wl"]).double().mean()
    assert float(trainer.callback_metrics["val/paired_accuracy"]) == pytest.approx(float(right))
    assert set(found.scores) == {"ww", "wl", "nw", "nl"}
    # Without the picture the wording alone decides: here it is not half of the pairs.
    blind = (found.scores["nw"] > found.scores["nl"]).double().mean()
    assert found.without == {"pairs/all": pytest.approx(float(blind))} and float(blind) != 0.5
    assert found.metrics["svco/logp_none"] == pytest.approx(float(found.scores["nw"].mean()))
    assert found.metrics["svco/paired_all"] == pytest.approx(float(right))


def test_an_objective_of_two_pictures_is_refused_by_the_field_that_lacks(folder):
    with pytest.raises(
        ValueError, match="reads the scores lw, ll, .* no field 'rejected_images'.*objective=dpo or sft"
    ):
        fit(folder, Objective(betas={"attend_mirror": 0.1, "image": 0.1}))


def test_no_picture_is_opened_twice_before_the_first_step(folder, monkeypatch):
    """Reading the file looks at each once, the reference scores once more, and counting what is cut at none."""
    shown = []
    own = preferences.Preference.images
    monkeypatch.setattr(
        preferences.Preference, "images", lambda pair, pixels=0: shown.append(pair) or own(pair, pixels)
    )
    data = PairsDataModule(
        source=PreferenceSource(file=str(laid(folder, "plain")), val=4, test=4), global_batch=4, keep=False
    )
    data.prepare_data()
    assert len(shown) == COUNT
    before: list[int] = []
    module = SVCO(
        model=tiny_vlm(max_response=4), objective=Objective(betas=DPO), optimizer={"lr": 1e-3, "warmup_steps": 1}
    )
    monkeypatch.setattr(module, "on_train_start", lambda: before.append(len(shown)))
    trainer = inner_trainer(max_steps=1, limit_val_batches=None, val_check_interval=1, check_val_every_n_epoch=None)
    trainer.fit(module, datamodule=data)
    trained_on = len(data.source.pairs("train")) + len(data.source.pairs("val"))
    assert before == [COUNT + trained_on]
    # All answers are longer than four tokens: two a pair.
    assert data.source.intake.cut == {"train": 2 * len(data.source.pairs("train")), "val": 8}


def test_our_pairs_are_a_file_for_trl(tmp_path, monkeypatch):
    """As TRL's DPO trainer loads one: `datasets` alone, pictures decoded, a conversation with one place for the picture."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pairs, _ = mvc.read(Path(many(tmp_path, count=3)))
    path = preferences.write(tmp_path / "ours.parquet", pairs)
    table = datasets.load_dataset("parquet", data_files=str(path), split="train")
    assert len(table) == 6
    row, mirrored = table[0], table[1]
    assert [part["type"] for part in row["prompt"][-1]["content"]] == ["image", "text"]
    assert row["images"][0].size == (8, 8) and row["images"][0].getpixel((0, 0)) == (0, 0, 0)
    assert mirrored["images"][0].getpixel((0, 0)) == (0, 1, 0)
    assert row["chosen"][0]["content"][0]["text"] == mirrored["rejected"][0]["content"][0]["text"] == "A red one."
    back, _ = preferences.read(path)
    assert [p.chosen for p in back[:2]] == ["A red one.", "A blue one."]
    assert torch.equal(
        *(torch.tensor(image.getpixel((0, 0))) for image in (back[1].images()[0], mirrored["images"][0]))
    )
