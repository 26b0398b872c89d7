"""A kept prompt is taken for the same backbone alone."""

import torch

from lightning_modules.prompt.prompts import Prompts
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
