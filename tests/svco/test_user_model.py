"""The documented commands on a user's model and pairs: judged on these pairs, and it says so."""

import csv
import json
import sys
from pathlib import Path

import pytest
import transformers as tf

from datamodules.scenes import MVCSource
from datamodules.scenes.reader import Reader
from lightning_modules.look import page
from lightning_modules.runtime import records
from lightning_modules.runtime.study import Desk
from lightning_modules.svco.figures import dependency_figure
from lightning_modules.svco.loading import load_vlm
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.models import prepared
from lightning_modules.svco.studies import Compare, Dependency
from lightning_modules.svco.tradeoff import Tradeoff
from tests import forks
from tests.families.vlm import parts
from tests.runtime.cli import PROJECT
from tests.svco.test_module import FOUR
from tests.svco.test_mvc import many

RUN = (
    "experiment=svco/train trainer.max_steps=3 trainer.val_check_interval=3 trainer.enable_progress_bar=false "
    "data.global_batch=4"
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Overrides of a tiny llava_next and a file of forty pairs."""
    folder = tmp_path_factory.mktemp("given")
    net, processor = parts("llava_next")
    net.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "pairs").mkdir()
    file = many(folder / "pairs")
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    source = [f"data.source.file={file}", "data.source.val=6", "data.source.test=8", "seed=1"]
    return folder, [*places, "threads=1", "logger=none", "model=vlm", f"model.path={folder}/model", "data=mvc", *source]


def test_a_training_is_judged_on_the_users_pairs(given):
    folder, overrides = given
    command = [sys.executable, str(PROJECT / "main.py"), *RUN.split(), *overrides]
    done = forks.run(command, cwd=folder, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "40 pairs, 26 train, 6 val, 8 test" in said
    assert "svco/paired_all" in said and "hallucination" not in said
    (run,) = folder.glob("runs/svco/train/*")
    metrics = records.result(run)["metrics"]
    (looked,) = page.read(run / page.LOOK)["runs"]
    assert len(looked["pairs"]) == 8
    for model, metric in (("base", "svco/base_paired_all"), ("svco/train", "svco/paired_all")):
        assert sum(looked["right"][model]) / 8 == pytest.approx(metrics[metric])
    assert all(len(pair["images"]) == 2 for pair in looked["pairs"])


@pytest.mark.slow
@pytest.mark.parametrize("study", [Compare, Dependency, Tradeoff])
def test_a_study_is_judged_on_the_users_pairs_and_says_so(given, study, capsys):
    folder, _ = given
    made = study(
        model=load_vlm(path=str(folder / "model")),
        objectives={"svco": Objective(betas=FOUR)},
        learning_rates=[1e-3],
        source=MVCSource(file=str(folder / "pairs" / "mvc.json"), val=6, test=8),
        cache_dir=str(folder / "cache"),
        steps=1,
        global_batch=2,
    )
    if study is Dependency:
        with pytest.raises(ValueError, match="mvc.json has pairs of 1 categories, too few for a correlation"):
            made.run(Desk(folder=folder / "study"))
        return
    found = made.run(Desk(folder=folder / "study"))
    if study is Compare:
        assert set(found) == {f"svco/{m}_{n}" for m in ("paired_all", "order_right") for n in ("base", "svco")}
    else:
        assert found["svco/paired_base"] <= found["svco/paired_kept_svco"] and found["svco/nats_base"] > 0
        assert "fitting answer" in made.unit
    assert "Judged on 8 test pairs of" in capsys.readouterr().err


def test_categories_are_told_by_their_whole_names(given, tmp_path):
    folder, _ = given
    records = json.loads(Path(many(tmp_path)).read_text())
    for number, record in enumerate(records):
        record["category"] = ("right", "left_right", "left/right")[number % 3]
    (tmp_path / "mvc.json").write_text(json.dumps(records))
    made = Compare(
        model=load_vlm(path=str(folder / "model")),
        objectives={"sft": Objective(nll={"ww": 1.0})},
        learning_rates=[1e-3],
        source=MVCSource(file=str(tmp_path / "mvc.json"), val=6, test=9),
        cache_dir=str(tmp_path / "cache"),
        steps=1,
        global_batch=2,
    )
    made.run(Desk(folder=tmp_path))
    rows = list(csv.DictReader((tmp_path / "tables" / "paired_by_category.csv").open()))
    assert set(rows[0]) == {"objective", "all", "right", "left_right", "left/right"}
    figure = dependency_figure(dependency={"pairs/left/right": 0.5}, gain={"pairs/left/right": 0.2})
    assert [text.get_text() for text in figure.axes[0].texts] == ["left/right"]


def test_a_tower_is_frozen_whatever_its_name_or_none_is_known():
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text, vision = dict(model_type="llama", vocab_size=32, **small), dict(**small, image_size=16, patch_size=8)
    pixtral = {name: value for name, value in vision.items() if name != "num_hidden_layers"}
    video = tf.VideoLlavaForConditionalGeneration(
        tf.VideoLlavaConfig(text_config=text, vision_config=dict(model_type="clip_vision_model", **vision))
    )
    ocr = tf.LightOnOcrForConditionalGeneration(
        tf.LightOnOcrConfig(
            text_config=dict(text, model_type="qwen3"),
            vision_config=dict(model_type="pixtral", num_hidden_layers=1, **pixtral),
        )
    )
    for net, towers in ((video, ("image_tower", "video_tower")), (ocr, ("vision_encoder",))):
        prepared(net=net, reader=None, lora_rank=0, freeze_vision=True)
        for name, weight in net.named_parameters():
            assert weight.requires_grad != any(f".{tower}." in name for tower in towers), name
    fuyu = tf.FuyuForCausalLM(tf.FuyuConfig(text_config=dict(text, model_type="persimmon"), vocab_size=32, **small))
    with pytest.raises(ValueError, match=r"model\.freeze_vision=true: no weight of fuyu has a name of a vision tower"):
        prepared(net=fuyu, reader=None, lora_rank=0, freeze_vision=True)
    prepared(net=fuyu, reader=None, lora_rank=0, freeze_vision=False)


def test_a_projector_is_no_part_of_the_frozen_tower():
    for family in ("llava", "qwen2_vl", "idefics3", "mllama"):
        net, processor = parts(family)
        prepared(net=net, reader=Reader(processor=processor), lora_rank=0, freeze_vision=True)
        frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
        joins = {n for n, _ in net.named_parameters() if any(j in n for j in ("projector", "merger", "connector"))}
        assert frozen and joins and not frozen & joins, family
        assert not any("language_model" in name or "text_model" in name for name in frozen)


def test_adapters_stand_in_the_decoder_whatever_its_name():
    for family in ("gemma3", "idefics2", "idefics3"):
        net, processor = parts(family)
        decoder = {id(weight) for weight in net.get_decoder().parameters()}
        vlm = prepared(net=net, reader=Reader(processor=processor), lora_rank=2, freeze_vision=True)
        trained = [name for name, weight in vlm.named_parameters() if weight.requires_grad]
        inside = {id(weight) for weight in vlm.core.get_decoder().parameters()} - decoder
        assert len(trained) == 2 * 14 == len(inside), family


def test_a_decoder_without_such_layers_is_named():
    net, processor = parts("gemma3")
    for layer in net.get_decoder().layers:
        layer.self_attn = layer.mlp = None
    with pytest.raises(
        ValueError, match="the decoder of gemma3, model.language_model, has no layers whose names end in _proj"
    ):
        prepared(net=net, reader=Reader(processor=processor), lora_rank=2, freeze_vision=True)
