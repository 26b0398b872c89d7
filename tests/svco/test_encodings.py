"""Pairs of a user's file are encoded once: counted over whole trainings, kept by content, and the same as encoded anew."""

import json
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.scenes import MVCSource, PairsDataModule, PreferenceSource, encodings, preferences
from datamodules.scenes.encodings import EncodedPairs, KeptPairs, encoded
from datamodules.scenes.reader import Reader
from lightning_modules.common.made import manifest
from lightning_modules.svco.callbacks.scene_evaluation import SceneEvaluation
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.module import SVCO
from lightning_modules.training.inner import inner_trainer
from tests.families.vlm import parts
from tests.svco.test_module import FOUR
from tests.svco.test_mvc import many
from tests.svco.toy import tiny_vlm

pytestmark = pytest.mark.slow

PAIRS = 40


@pytest.fixture
def read(monkeypatch):
    """(thread, question, answer) of every pair that a reader encodes."""
    found, own = [], Reader.encode

    def encode(reader, pair, images):
        found.append((threading.current_thread().name, pair.instruction, pair.chosen, images[0].getpixel((0, 0))))
        return own(reader, pair, images)

    monkeypatch.setattr(Reader, "encode", encode)
    return found


def fit(file, cache, **more):
    """A training with all that asks for pairs: base and end evaluated, cached reference, two epochs, validation, test."""
    settings = dict(global_batch=13, eval_batch=4, keep=False, cache_dir=str(cache))
    data = PairsDataModule(source=MVCSource(file=str(file), val=6, test=8), **{**settings, **more})
    module = SVCO(model=tiny_vlm(), objective=Objective(betas=FOUR), optimizer={"lr": 1e-3, "warmup_steps": 1})
    losses, own = [], module.training_step

    def training_step(*given):
        losses.append(own(*given))
        return losses[-1]

    module.training_step = training_step
    trainer = inner_trainer(
        max_steps=4,
        limit_val_batches=None,
        num_sanity_val_steps=2,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[SceneEvaluation(folder=str(cache / "figures"))],
    )
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return [float(loss) for loss in losses]


def test_a_training_encodes_each_pair_once_and_the_next_one_none(tmp_path, read):
    file = many(tmp_path, count=PAIRS)
    expected = fit(file, tmp_path / "none", cache_dir=None)
    assert len(read) > 3 * PAIRS, "else nothing is spared"
    read.clear()
    assert fit(file, tmp_path / "cache") == expected
    assert len(read) == len(set(read)) == PAIRS
    read.clear()
    assert fit(file, tmp_path / "cache") == expected
    assert read == []
    # Pictures of another content are other pairs: those of their part are read again.
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "3-0.png")
    fit(file, tmp_path / "cache")
    assert 0 < len(read) <= PAIRS
    assert any(pixel == (200, 100, 50) for *_, pixel in read)


def split(file, cache, reader, **more):
    settings = dict(pixels=48, keep=False, cache_dir=str(cache), gigabytes=1.0)
    return encoded(MVCSource(file=str(file), val=2, test=2), "train", reader, **{**settings, **more})


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3", "mllama"])
def test_what_is_kept_is_what_is_encoded(tmp_path, family):
    reader = Reader(processor=parts(family)[1], max_response=12)
    kept = split(many(tmp_path, count=6), tmp_path / "cache", reader)
    plain = EncodedPairs(kept.pairs, reader, pixels=48)
    assert isinstance(kept, KeptPairs) and len(kept) == 2
    for one, other in zip(kept, plain, strict=False):
        for name, value in other._asdict().items():
            found = getattr(one, name)
            if isinstance(value, torch.Tensor):
                assert found.dtype == value.dtype and torch.equal(found, value), name
            elif isinstance(value, int):
                assert found == value, name
            else:
                assert found.keys() == value.keys(), name
                assert all(torch.equal(found[n], value[n]) for n in value), name


def test_a_picture_that_a_model_does_not_take_is_named(tmp_path):
    reader = Reader(processor=parts("qwen2_vl")[1], max_response=12)
    file = many(tmp_path, count=6)
    for n in range(6):
        Image.new("RGB", (500, 1), (n, 0, 0)).save(tmp_path / f"{n}-1.png")
    with pytest.raises(
        ValueError, match=r"/\d-1\.png, of 500 x 1 pixels, is not taken by the model's Qwen2VLProcessor: abs"
    ):
        split(file, tmp_path / "cache", reader)[0]


def test_pairs_of_one_picture_are_kept_too(tmp_path):
    for n in range(6):
        Image.new("RGB", (8, 8), (n * 9, 0, 40)).save(tmp_path / f"{n}.png")
    rows = [{"prompt": "what ?", "chosen": f"a {n} .", "rejected": "none .", "images": [f"{n}.png"]} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = PreferenceSource(file=str(tmp_path / "rows.jsonl"), val=2, test=2)
    kept = encoded(source, "val", tiny_vlm().reader, pixels=48, keep=False, cache_dir=str(tmp_path), gigabytes=1.0)
    assert isinstance(kept, KeptPairs) and isinstance(kept.pairs[0], preferences.Preference)
    assert kept[1].prompt_l.shape == (0,) and kept[1].inputs_l == {} and len(kept[1].response_l)


def test_the_key_is_the_processors_content(tmp_path):
    """Not its place, nor what it was last asked for."""
    processor = parts("qwen2_vl")[1]
    reader = Reader(processor=processor)
    before = reader.content
    processor.tokenizer(["a", "longer"], padding=True, truncation=True, max_length=3)
    assert Reader(processor=processor).content == before == Reader(processor=parts("qwen2_vl")[1]).content
    others = [Reader(processor=processor, max_response=5)]
    for change in ("pixels", "template", "word"):
        other = parts("qwen2_vl")[1]
        if change == "pixels":
            other.image_processor.size = {"shortest_edge": 256, "longest_edge": 2048}
        elif change == "template":
            other.chat_template = other.chat_template.replace("user", "User")
        else:
            other.tokenizer.add_tokens(["another"])
        others.append(Reader(processor=other))
    assert len({before, *(o.content for o in others)}) == 1 + len(others)


def test_a_file_that_has_grown_and_a_run_that_was_stopped_go_on_with_what_is_there(tmp_path, read, monkeypatch):
    monkeypatch.setattr(encodings, "PART", 4)
    file, reader = many(tmp_path, count=14), tiny_vlm().reader
    first = split(file, tmp_path / "cache", reader)
    assert len(read) == 4, "the first part alone"
    first[5]
    assert len(read) == 8
    again = split(file, tmp_path / "cache", reader)
    assert [again[n].response_w.tolist() for n in (0, 5)] == [first[n].response_w.tolist() for n in (0, 5)]
    assert len(read) == 8
    again[9]
    assert len(read) == 10, "the last part is what is left"


def test_what_would_take_too_much_is_not_kept_and_it_is_said(tmp_path, capsys):
    found = split(many(tmp_path, count=8), tmp_path / "cache", tiny_vlm().reader, gigabytes=1e-9)
    assert not isinstance(found, KeptPairs) and found[0].cut == 0
    assert "8 encoded pairs would take about 0 GB, more than data.encoded_gb=1e-09" in capsys.readouterr().err
    none = split(tmp_path / "mvc.json", tmp_path / "other", tiny_vlm().reader, gigabytes=0.0)
    assert not isinstance(none, KeptPairs) and not (tmp_path / "other").exists()


def test_reading_ahead_is_beside_and_ends_when_it_is_told(tmp_path, read, monkeypatch):
    monkeypatch.setattr(encodings, "PART", 4)
    kept = split(many(tmp_path, count=24), tmp_path / "cache", tiny_vlm().reader)
    read.clear()
    before = threading.active_count()
    end = encodings.read_ahead([kept])
    kept[len(kept) - 1]
    end()
    asked = [name for name, *_ in read]
    assert "encoding" in asked or len(asked) == 4
    assert len(read) == len(set(read))
    # A part that was begun is whole.
    for place in Path(tmp_path / "cache" / "svco" / "encoded").glob("*/"):
        assert set(manifest(place)["sha256"]) == {encodings.FILE}
    assert threading.active_count() <= before and not any(t.name == "encoding" for t in threading.enumerate())
