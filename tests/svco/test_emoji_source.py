"""Emoji as a source of pairs: splits that share nothing, and a study that counts as one would by hand."""

import io
import json
import tarfile
from itertools import product

import pytest
import torch
from PIL import Image

from datamodules.scenes import EmojiSource, emoji, emoji_source
from datamodules.scenes.encodings import EncodedPairs
from lightning_modules.common.files import sha256
from lightning_modules.runtime.study import Desk
from lightning_modules.svco import Objective, emoji_base, studies
from lightning_modules.svco.evaluation import judged, judging
from lightning_modules.svco.losses import SCORES
from lightning_modules.svco.scores import pair_scores
from tests.svco import toy

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (240, 210, 40)}
THINGS = [f"{one}{two}ling" for one in "bdgkm" for two in "aeio"]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Twenty things in four colours, and twenty in two genders, two ways to face and three tones, as the package is."""
    archive, entries = tmp_path / "emoji.tgz", []
    with tarfile.open(archive, "w:gz") as tar:

        def add(name, content):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

        for number, thing in enumerate(THINGS):
            for place, (colour, rgb) in enumerate(COLOURS.items()):
                picture, name = io.BytesIO(), f"{number}-{place}.png"
                image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
                image.paste((*rgb, 255), (8, 8, 20 + 2 * number, 56))
                image.save(picture, "PNG")
                add(f"package/img/twitter/64/{name}", picture.getvalue())
                entries.append({"name": f"{colour} {thing}", "subcategory": "toy", "image": name})
        for number, (thing, way, who) in enumerate(product(THINGS, ("", " facing right"), ("man", "woman"))):
            for tone in ("", "-1F3FB", "-1F3FF"):
                picture = io.BytesIO()
                Image.new("RGBA", (64, 64), (number, len(tone), ord(tone[-1:] or "0"), 255)).save(picture, "PNG")
                add(f"package/img/twitter/64/f{number}{tone}.png", picture.getvalue())
            tones = {tone: {"image": f"f{number}-{tone}.png"} for tone in ("1F3FB", "1F3FF")}
            name = f"{who} {thing}er{way}"
            entries.append({"name": name, "subcategory": "toy", "image": f"f{number}.png", "skin_variations": tones})
        # One picture for two names.
        for name in ("man drawn once", "woman drawn once"):
            picture = io.BytesIO()
            Image.new("RGBA", (64, 64), "white").save(picture, "PNG")
            add(f"package/img/twitter/64/{name}.png", picture.getvalue())
            entries.append({"name": name, "subcategory": "toy", "image": f"{name}.png"})
        add("package/emoji.json", json.dumps(entries).encode())
    pin = emoji.PACKAGE._replace(sha256=sha256(archive))
    monkeypatch.setattr(emoji, "PACKAGE", pin)
    monkeypatch.setattr(emoji_source, "PACKAGE", pin)
    return EmojiSource(cache_dir=str(tmp_path / "cache"), archive=str(archive), most=40)


def test_no_picture_and_no_twin_is_in_two_splits(source):
    seen = {}
    for split in ("train", "val", "test"):
        pairs = source.pairs(split)
        assert pairs, split
        for pair in pairs:
            assert pair.chosen != pair.rejected
            for e in (pair.chosen_emoji, pair.rejected_emoji):
                thing = e.name.split()[1]
                assert seen.setdefault(thing, split) == split
    assert len(set(source.splits.values())) == 3
    train = {e.image for e in source.pictures("train")}
    assert not train & {e.image for e in source.pictures("test")}


def test_all_pictures_of_one_figure_are_in_one_split(source):
    """The one without a tone, the tinted ones and those that face the other way, whoever it is."""
    seen = {}
    for split in ("train", "val", "test"):
        for e in source.pictures(split):
            seen.setdefault(next((w for w in e.name.split() if w.endswith("linger")), e.name), set()).add(split)
    figures = [splits for thing, splits in seen.items() if thing.endswith("linger")]
    assert len(figures) == len(THINGS)
    assert all(len(splits) == 1 for splits in figures)
    assert {"train", "test"} <= set().union(*figures)


def test_one_picture_under_two_names_is_no_pair(source):
    assert any("drawn once" in e.name for pair in source.contrasts for e in pair[:2])
    assert not any("drawn once" in pair.chosen for split in ("train", "val", "test") for pair in source.pairs(split))


def test_neither_word_is_always_the_chosen_one(source):
    pairs = [pair for pair in source.pairs("train") if pair.category == "colour"]
    chosen = [pair.chosen_emoji.name.split()[0] for pair in pairs]
    assert min(chosen.count(colour) for colour in COLOURS) > 0.1 * len(chosen)


def test_a_category_has_at_most_so_many_pairs(source):
    pairs = [pair.category for pair in source.pairs("train")]
    assert max(map(pairs.count, pairs)) == 40


def test_some_of_the_test_pairs_are_of_every_category_and_are_those_that_are_scored(source):
    whole = source.pairs("test")
    some = judging(source, judged_on="auto", pairs=12)
    assert {p.category for p in whole[:12]} < {p.category for p in whole} == {p.category for p in some}
    vlm = toy.tiny_vlm(more=source.words())
    asked = dict(source=source, pairs=12)
    found = judged(vlm, **asked, encoded=EncodedPairs(whole, vlm.reader, pixels=48))
    assert found.categories == [p.category for p in some]
    alone = judged(vlm, **asked)
    assert all(torch.equal(found.scores[name], alone.scores[name]) for name in SCORES)
    everything = judging(source, judged_on="auto", pairs=len(whole))
    assert everything == whole


@pytest.mark.slow
def test_the_study_counts_as_one_would_by_hand(source, tmp_path, monkeypatch):
    vlm = toy.tiny_vlm(more=source.words())
    study = studies.Compare(
        model=vlm,
        objectives={
            "svco": Objective(betas={"attend": 0.1, "reject": 0.1, "attend_mirror": 0.1, "reject_mirror": 0.1})
        },
        learning_rates=[1e-3],
        source=source,
        cache_dir=str(tmp_path / "cache"),
        steps=2,
        global_batch=4,
        pixels=48,
        test_pairs=1000,
    )
    metrics = study.run(Desk(folder=tmp_path / "run"))
    pairs = source.pairs("test")
    with torch.no_grad():
        s = pair_scores(vlm.eval(), [vlm.reader.encode(p, p.images(48)) for p in pairs], SCORES)
    both = [bool(s["ww"][i] > s["wl"][i] and s["ll"][i] > s["lw"][i]) for i in range(len(pairs))]
    assert metrics["svco/paired_all_base"] == pytest.approx(sum(both) / len(pairs))
    assert set(metrics) == {f"svco/{m}_{n}" for m in ("paired_all", "order_right") for n in ("base", "svco")}
    assert (tmp_path / "run" / "figures" / "log_probabilities.png").is_file()


def test_the_base_knows_every_word_and_keeps_the_numbers_of_the_old_ones(source):
    from lightning_modules.svco.embedded import build_processor

    old, new = build_processor().tokenizer, build_processor(more=source.words()).tokenizer
    assert new.unk_token_id not in new(emoji_source.caption(source.pictures("test")[0])).input_ids
    assert all(new.get_vocab()[word] == number for word, number in old.get_vocab().items())


def test_the_base_learns_from_training_pictures_only(source, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(emoji_base, "fit_batches", lambda module, rows, steps: told.extend(r for b in rows for r in b))
    monkeypatch.setattr(emoji_base, "pretrained_vlm", lambda **_: toy.tiny_vlm())
    vlm = emoji_base.emoji_vlm(source=source, cache_dir=str(tmp_path / "cache"), steps=20, batch=8)
    texts = {vlm.reader.text(row.responses[0]) for row in told}
    assert texts <= {emoji_source.caption(e) for e in source.pictures("train")}
    assert any(not row.inputs for row in told)
    assert vlm.reader.tokenizer.get_vocab().keys() >= set(source.words())
