"""The pipeline: verdicts, rewording that keeps the contrast, resuming, parallel parts; emoji from a local fixture."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.scenes import emoji, mvc
from lightning_modules.common.files import sha256
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.mvc.build import BuildMVC
from lightning_modules.svco.mvc.candidates import Candidate, SceneCandidates
from lightning_modules.svco.mvc.filters import EmbeddedSimilarity, ModelSimilarity, StructuralSimilarity, verdict
from lightning_modules.svco.mvc.rewriting import LanguageModel, Templates, Worded, keeps_contrast
from tests.desks import Undrawn
from tests.svco.toy import tiny_vlm


def study(folder, **changes):
    settings = dict(
        candidates=SceneCandidates(count=25, seed=3),
        semantic=StructuralSimilarity(),
        visual=StructuralSimilarity(window=5),
        rewriter=Templates(),
        cache_dir=str(folder / "cache"),
        above=0.3,
        below=0.9,
        part=10,
    )
    return BuildMVC(**{**settings, **changes})


@pytest.mark.parametrize(
    ("semantic", "visual", "flip", "expected"),
    [
        (0.8, 0.4, False, "kept"),
        (0.7, 0.4, False, "not alike in meaning"),
        (0.8, 0.5, False, "too alike to the eye"),
        (float("nan"), 0.4, False, "not alike in meaning"),
        (0.1, 0.9, True, "kept: flip"),
    ],
)
def test_verdicts(semantic, visual, flip, expected):
    assert verdict(semantic=semantic, visual=visual, flip=flip, above=0.7, below=0.5) == expected


def test_a_file_with_its_datasheet_and_every_count(tmp_path):
    metrics = study(tmp_path).run(Desk(folder=tmp_path))
    pairs, bad = mvc.read(tmp_path / "mvc" / "mvc.json")
    assert bad == []
    assert metrics == {"svco/mvc_kept": len(pairs), "svco/mvc_candidates": 25}
    sheet = (tmp_path / "tables" / "datasheet.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in sheet]
    assert sum(int(n) for *_, n in rows) == 25
    assert sum(int(n) for _, v, n in rows if v.startswith("kept")) == len(pairs)
    assert any(v == "kept: flip" for _, v, _ in rows)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"kept_pairs.png", "rejected_pairs.png"}


@pytest.mark.processes
def test_a_killed_pipeline_goes_on_and_parallel_parts_are_the_same(tmp_path, monkeypatch):
    first = study(tmp_path / "a")
    first.run(Undrawn(folder=tmp_path / "one"))
    asked = []
    monkeypatch.setattr(StructuralSimilarity, "__call__", lambda *_: asked.append(1))
    study(tmp_path / "a").run(Undrawn(folder=tmp_path / "again"))
    assert asked == []
    monkeypatch.undo()
    study(tmp_path / "b", workers=2).run(Undrawn(folder=tmp_path / "two"))
    texts = {n: (tmp_path / n / "mvc" / "mvc.json").read_text() for n in ("one", "again", "two")}
    assert len(set(texts.values())) == 1


def test_nothing_kept_is_an_error_that_names_the_thresholds(tmp_path):
    with pytest.raises(ValueError, match=r"none of 25 candidates was kept.*study\.above"):
        study(tmp_path, candidates=SceneCandidates(count=25, unrelated=1.0), above=1.0).run(Desk(folder=tmp_path))


def test_rewording_must_keep_the_contrast():
    picture = Image.new("RGB", (8, 8))
    pair = Candidate("x", picture, picture, "a red cat .", "a blue cat .", "colour")
    assert keeps_contrast(pair, Worded("?", "i see a red cat .", "i see a blue cat ."))
    assert not keeps_contrast(pair, Worded("?", "i see a cat .", "i see a blue cat ."))
    assert not keeps_contrast(pair, Worded("?", "a red cat , not a blue one .", "a blue cat ."))
    assert not keeps_contrast(pair._replace(caption_other="a red cat ."), Worded("?", "a red cat .", "a red cat ."))
    for number in range(20):
        assert keeps_contrast(pair, Templates()(pair, np.random.default_rng(number)))


def test_similarity_of_a_picture_with_itself_is_one(tmp_path):
    pictures = [c.one for c in SceneCandidates(count=4).part(0, 4)]
    others = [c.other for c in SceneCandidates(count=4, unrelated=1.0).part(0, 4)]
    for similarity in (StructuralSimilarity(), EmbeddedSimilarity(model=tiny_vlm())):
        assert similarity(pictures, pictures) == pytest.approx(np.ones(4), abs=1e-5)
        assert (similarity(pictures, others) < 0.999).all()


@pytest.mark.parametrize("family", ["siglip", "clip", "dinov2"])
def test_any_vision_model_by_path(tmp_path, family):
    from transformers import (
        AutoModel,
        BitImageProcessorPil,
        CLIPConfig,
        CLIPImageProcessorPil,
        Dinov2Config,
        SiglipConfig,
        SiglipImageProcessorPil,
    )

    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    vision, side = dict(**small, image_size=16, patch_size=8), {"height": 16, "width": 16}
    config, processor = {
        "siglip": (SiglipConfig(text_config=small, vision_config=vision), SiglipImageProcessorPil(size=side)),
        "clip": (CLIPConfig(text_config=small, vision_config=vision), CLIPImageProcessorPil(size=side, crop_size=side)),
        "dinov2": (Dinov2Config(**vision, mlp_ratio=1), BitImageProcessorPil(size=side, crop_size=side)),
    }[family]
    AutoModel.from_config(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pictures, others = zip(*((c.one, c.other) for c in SceneCandidates(count=3).part(0, 3)), strict=True)
    assert ModelSimilarity(path=str(tmp_path))(pictures, pictures) == pytest.approx(np.ones(3), abs=1e-5)
    # Saved in half precision its similarities are those of the same weights in float32.
    for dtype in (torch.bfloat16, torch.float16):
        AutoModel.from_pretrained(tmp_path).to(dtype).save_pretrained(tmp_path)
        found = ModelSimilarity(path=str(tmp_path))(pictures, others)
        AutoModel.from_pretrained(tmp_path, dtype=torch.float32).save_pretrained(tmp_path)
        assert found.dtype == np.float32
        assert found == pytest.approx(ModelSimilarity(path=str(tmp_path))(pictures, others), abs=1e-6)
    before = ModelSimilarity(path=str(tmp_path)).description()
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.1, 0.1, 0.1]}))
    assert ModelSimilarity(path=str(tmp_path)).description() != before, "pictures are read otherwise"
    with pytest.raises(ValueError, match=r"no config\.json"):
        ModelSimilarity(path=str(tmp_path / "none"))


def test_a_language_model_rewords_and_what_loses_the_contrast_is_counted(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_vlm().reader.tokenizer
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **small)).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    # An untrained model rewords into noise, which must not get through.
    built = study(tmp_path, rewriter=LanguageModel(path=str(tmp_path / "lm"), longest=4), part=25)
    with pytest.raises(ValueError, match="rewording lost the contrast"):
        built.run(Desk(folder=tmp_path))


ENTRIES = [
    ("RED HEART", "a", "heart"),
    ("BLUE HEART", "b", "heart"),
    ("MAN COOK", "c", "person"),
    ("WOMAN COOK", "d", "person"),
]


def archive(folder):
    path = folder / "package.tgz"
    listed = [{"name": n, "image": f"{i}.png", "subcategory": g} for n, i, g in ENTRIES]
    listed[2]["skin_variations"] = {"1F3FB": {"image": "c1.png"}, "1F3FF": {"image": "c2.png"}}
    with tarfile.open(path, "w:gz") as tar:
        files = {"package/emoji.json": json.dumps(listed).encode(), "package/../../evil.txt": b"no"}
        for number, name in enumerate([*(i for _, i, _ in ENTRIES), "c1", "c2"]):
            buffer = io.BytesIO()
            Image.new("RGBA", (64, 64), (40 * number, 90, 10, 255)).save(buffer, "png")
            files[f"package/img/twitter/64/{name}.png"] = buffer.getvalue()
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_emoji_contrasts_of_an_archive(tmp_path, monkeypatch):
    path = archive(tmp_path)
    with pytest.raises(ValueError, match="its SHA-256 is .*expected f64a530c"):
        emoji.emojis(tmp_path / "cache", archive=path)
    monkeypatch.setattr(emoji, "PACKAGE", emoji.PACKAGE._replace(sha256=sha256(path)))
    found = emoji.emojis(tmp_path / "cache", archive=path)
    assert len(found) == 6
    pairs = [(a.name, b.name, c) for a, b, c in emoji.contrasts(found)]
    assert ("red heart", "blue heart", "colour") in pairs
    assert ("man cook", "woman cook", "gender") in pairs
    assert ("man cook in a light skin tone", "man cook in a dark skin tone", "skin tone") in pairs
    assert len(pairs) == 3
    assert not list(tmp_path.rglob("evil.txt"))
    with pytest.raises(ValueError, match="archive=.*no such file"):
        emoji.emojis(tmp_path, archive=tmp_path / "none.tgz")
