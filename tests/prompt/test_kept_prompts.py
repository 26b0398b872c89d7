"""What is kept, backbones and prompts, is taken where it is what would be made there, and nowhere else."""

import shutil

import pytest
import torch

from datamodules.tasks.pretraining import PretrainingDataModule
from lightning_modules.common.made import place_of
from lightning_modules.prompt import backbones
from lightning_modules.prompt.pretraining import TRAINER, MaskedLM, pretrain
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.prompt.tuners import Adapter
from lightning_modules.training.inner import inner_trainer, on_machine_of
from tests import hub
from tests.prompt import tiny, toy


def test_a_bare_encoder_and_the_model_with_its_head_keep_prompts_of_their_own(tmp_path):
    folder = tiny.save("bert", tmp_path / "bert")
    tuning = toy.TUNING | {"lr": 0.1}

    def prompt(head, cache):
        spec = tiny.HubBackbone(name=folder, head=head)
        asked = dict(source=tiny.Reviews(), tuning=tuning, length=3, verbaliser="sum")
        return Prompts(backbone=spec, cache=str(cache), **asked).prompt("reviews", seed=0).weight

    kept = {head: prompt(head, tmp_path / "kept") for head in ("auto", "none")}
    for head, found in kept.items():
        assert torch.equal(found, prompt(head, tmp_path / head)), head
    assert not torch.equal(kept["auto"], kept["none"])


def test_a_tokenizer_that_reads_otherwise_is_another_backbone(tmp_path):
    folder = tiny.save("bert", tmp_path / "bert")
    before = tiny.HubBackbone(name=folder).key()
    assert tiny.HubBackbone(name=folder).key() == before
    path = tmp_path / "bert" / "tokenizer.json"
    # The same words, but every text is read in small letters.
    path.write_text(path.read_text().replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}'))
    assert '"Lowercase"' in path.read_text()
    assert tiny.HubBackbone(name=folder).key() != before


def test_a_hub_name_is_known_by_its_commit(tmp_path, monkeypatch):
    keys = []
    for commit in ("a" * 40, "b" * 40):
        tiny.save("bert", hub.snapshot(monkeypatch, tmp_path, "somebody/bert", revision="main", commit=commit))
        keys.append(tiny.HubBackbone(name="somebody/bert").key())
    assert [key["revision"] for key in keys] == ["a" * 40, "b" * 40]


TINY = dict(random_init=False, steps=3, batch=16, sentences=64)


@pytest.mark.parametrize(
    ("trainer", "data", "kept"),
    [
        ({}, {}, True),
        ({"gradient_clip_val": None}, {}, False),
        ({"accumulate_grad_batches": 2}, {}, False),
        ({"precision": "bf16-mixed"}, {}, False),
        ({"max_steps": 2}, {}, False),
        ({}, {"offsets": 0}, False),
        ({}, {"batch": 8}, False),
    ],
)
def test_a_run_of_pretraining_is_kept_where_it_is_the_automatic_one(trainer, data, kept, tmp_path):
    spec = toy.spec(tmp_path, **TINY)
    own = dict(language=spec.language, backbone=spec, sentences=64, batch=16) | data
    module = MaskedLM(backbone=spec)
    made = PretrainingDataModule(**own)
    inner_trainer(**dict(max_steps=3, precision="32-true") | TRAINER | trainer).fit(module, datamodule=made)
    module.export(tmp_path / "export", datamodule=made)
    assert (tmp_path / "export" / "model.safetensors").is_file()
    assert spec.thing().is_kept == kept


def made_elsewhere(monkeypatch, spec):
    """The backbone's folder is lost, and made again where float32 rounds otherwise."""

    def pretrained(spec, folder):
        build = spec.build

        def rounded():
            model = build()
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1 + 1e-6)
            return model

        spec.build = rounded
        pretrain(spec, folder)

    monkeypatch.setattr(backbones, "pretrain", pretrained)
    shutil.rmtree(place_of(**spec._kept))


def test_a_prompt_of_a_backbone_that_was_made_anew_is_tuned_anew(tmp_path, monkeypatch, capsys):
    def asked():
        return toy.prompts(tmp_path, backbone=toy.spec(tmp_path, **TINY))

    def adapter(prompts):
        return prompts.tuned("sentiment_film", seed=1, tuner=Adapter(rank=2)).trained()

    first = asked()
    before, tuned = first.prompt("sentiment_film", seed=1), adapter(first)
    made_elsewhere(monkeypatch, first.spec)
    again = asked()
    after = again.prompt("sentiment_film", seed=1)
    assert after.about["backbone"] == again.backbone.fingerprint() != before.about["backbone"]
    assert not torch.equal(after.weight, before.weight)
    assert any(not torch.equal(weight, tuned[name]) for name, weight in adapter(again).items())
    said = capsys.readouterr().err
    assert said.count("tuned anew") == 2 and again.backbone.fingerprint() in said
    later = asked()
    assert torch.equal(later.prompt("sentiment_film", seed=1).weight, after.weight)
    adapter(later)
    assert "tuned anew" not in capsys.readouterr().err


def test_prompts_tuned_in_half_precision_are_all_of_the_backbone_that_is_measured(tmp_path):
    with on_machine_of({"precision": "bf16-true"}):
        prompts = toy.prompts(tmp_path)
        whole = prompts.backbone.fingerprint()
        found = [prompts.prompt("sentiment_film", seed=seed) for seed in (1, 2)]
        assert {prompt.about["backbone"] for prompt in found} == {whole} == {prompts.backbone.fingerprint()}
