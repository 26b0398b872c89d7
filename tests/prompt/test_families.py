"""What is promised of every Hugging Face family, on tiny models loaded from disk."""

import pytest
import torch
from torch import nn

from datamodules.tasks.datamodule import TaskDataModule
from datamodules.tasks.task import Task
from datamodules.tasks.template import collate
from lightning_modules.prompt import pruning
from lightning_modules.prompt import skill_neurons as sn
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.families import down_projections, up_projections
from lightning_modules.prompt.hooks import Perturbation, hooked
from lightning_modules.prompt.indicators import active_LF
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.tuners import Adapter, BitFit, FullFineTuning, LoRA, SoftPrompt
from lightning_modules.runtime.inner import inner_trainer, seeded
from tests.prompt import families

TEXTS = ["the film was fine", "the shop was awful", "it was the film", "awful film it was the shop"]


ACTIVATIONS = ("GELUActivation", "NewGELUActivation", "SiLUActivation", "SiLU", "ReLU")


class Opinions:
    """A source of one task."""

    def names(self):
        return ["opinion"]

    def task(self, name):
        texts = {split: [f"{t} {split}" for t in TEXTS] for split in ("train", "val", "test")}
        return Task(name, "sentiment", ("good", "bad"), texts, {split: [0, 1, 0, 1] for split in texts})


@pytest.fixture(scope="module", params=families.FAMILIES)
def spec(request, tmp_path_factory):
    folder = families.saved(request.param, tmp_path_factory.mktemp(request.param))
    return HubBackbone(name=str(folder))


def data_of(spec, length=3):
    return TaskDataModule(source=Opinions(), task="opinion", backbone=spec, prompt_length=length, batch=2)


@pytest.fixture
def asked(spec):
    data = data_of(spec)
    backbone = spec.load()
    prompt = torch.randn(3, backbone.width, generator=torch.Generator().manual_seed(0))
    return backbone, data, prompt


@torch.no_grad()
def test_a_neuron_is_what_the_activation_gave(spec, asked):
    """Bit for bit, so that nothing between activation and down-projection is missed."""
    backbone, data, prompt = asked
    seen, activations = {}, {}
    names = list(down_projections(backbone.model))
    handles = []
    for layer, name in enumerate(names):
        ups = up_projections(backbone.model, name)
        assert ups, name
        for up, module in ups.items():
            key = (layer, up.rpartition(".")[2])
            handles.append(module.register_forward_hook(lambda m, a, out, key=key: activations.__setitem__(key, out)))
    with hooked(backbone.sites(), lambda layer, x: seen.__setitem__(layer, x)):
        backbone.answer(data.examples("test")[:], prompt)
    for handle in handles:
        handle.remove()
    config = backbone.model.config
    act = next(m for m in backbone.model.modules() if type(m).__name__ in ACTIVATIONS)
    for layer in range(len(names)):
        outs = {key[1]: value for key, value in activations.items() if key[0] == layer}
        if "gate_proj" in outs:
            expected = act(outs["gate_proj"]) * outs["up_proj"]
        elif "wi_0" in outs:
            expected = act(outs["wi_0"]) * outs["wi_1"]
        else:
            expected = act(next(iter(outs.values())))
        assert torch.equal(seen[layer], expected), (config.model_type, layer)


@torch.no_grad()
def test_observers_change_no_logit(asked):
    backbone, data, prompt = asked
    batch = data.examples("test")[:]
    plain = backbone.scores(batch, prompt)
    sn.moments(backbone, data.fixed("val"), prompt)
    with hooked(backbone.sites(), lambda layer, x: None):
        assert torch.equal(backbone.scores(batch, prompt), plain)
    assert torch.equal(backbone.scores(batch, prompt), plain)
    assert active_LF(backbone, data, prompt).shape == (2, 24)


@torch.no_grad()
def test_without_a_prompt_it_is_the_plain_model(spec, asked):
    backbone, _, _ = asked
    data = data_of(spec, length=0)
    batch = data.examples("test")[:]
    scores = backbone.scores(batch)
    inputs = dict(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    if backbone.kind == "seq2seq":
        start = torch.full((len(scores), 1), backbone.model.config.decoder_start_token_id)
        logits = backbone.model(**inputs, decoder_input_ids=start).logits[:, 0]
    else:
        logits = backbone.model(**inputs).logits[torch.arange(len(scores)), batch["ask"]]
    torch.testing.assert_close(scores, logits[:, batch["label_ids"]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing_on_either_side(spec, asked):
    backbone, data, prompt = asked
    examples = data.examples("test")
    together = backbone.scores(examples[:], prompt)
    alone = torch.cat([backbone.scores(examples[n : n + 1], prompt) for n in range(len(examples))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    batch = examples[:]
    moved = collate(examples.rows, pad=examples.pad, left=True)
    shift = (moved["attention_mask"] == 0).sum(1)
    embeds = backbone.model.get_input_embeddings()(moved["input_ids"])
    at = int(batch["prompt_at"])
    for n, by in enumerate(shift.tolist()):
        embeds[n, at + by : at + by + len(prompt)] = prompt
    left = {**batch, **moved, "ask": batch["ask"] + shift}
    torch.testing.assert_close(backbone.scores_of(embeds, left), together, atol=1e-5, rtol=1e-5)


TUNERS = {
    "soft_prompt": lambda: SoftPrompt(length=3),
    "bitfit": BitFit,
    "adapter": lambda: Adapter(rank=2),
    "lora": lambda: LoRA(rank=2),
    "full": FullFineTuning,
}


@pytest.mark.parametrize("name", TUNERS)
def test_a_tuner_trains_what_is_its_own(spec, name, tmp_path):
    data = data_of(spec, length=3 if name == "soft_prompt" else 0)
    with seeded(0):
        if name == "bitfit" and not any(hasattr(m, "bias") and m.bias is not None for m in spec.load().model.modules()):
            with pytest.raises(ValueError, match="no bias"):
                PromptTuning(backbone=spec, tuner=BitFit())
            return
        module = PromptTuning(backbone=spec, tuner=TUNERS[name](), lr=0.05)
        batch = data.examples("test")[:]
        with torch.no_grad():
            first = module(batch)
            assert torch.equal(first, module.backbone.scores(batch, module.tuner.prompt()))
        inner_trainer(max_steps=4).fit(module, datamodule=data)
    with torch.no_grad():
        assert not torch.allclose(module(batch), first)
    trained = module.trained()
    if name == "soft_prompt":
        assert [tuple(p.shape) for p in trained.values()] == [(3, module.backbone.width)]
    if name != "full":
        assert module.backbone.fingerprint() == module.before == spec.load().fingerprint()
        again = PromptTuning(backbone=spec, tuner=TUNERS[name]())
        module.export(tmp_path, datamodule=data)
        again.load_export(tmp_path)
        with torch.no_grad():
            assert torch.equal(again(batch), module(batch))
    else:
        assert module.backbone.fingerprint() != module.before


@torch.no_grad()
def test_pruned_equals_ablated_by_a_hook_and_keeping_all_is_the_identity(spec, asked):
    backbone, data, prompt = asked
    batch = data.examples("test")[:]
    plain = backbone.scores(batch, prompt)
    mean_LF = sn.moments(backbone, data.fixed("train"), prompt).mean_LF
    keep = torch.rand(mean_LF.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    smaller = type(backbone)(pruning.pruned(backbone.model, keep_LF=keep, mean_LF=mean_LF), backbone.tokenizer)
    with hooked(backbone.sites(), Perturbation(mask_LF=~keep, kind="mean", mean_LF=mean_LF)):
        ablated = backbone.scores(batch, prompt)
    torch.testing.assert_close(smaller.scores(batch, prompt), ablated, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ablated, plain, atol=1e-6)
    assert pruning.parameters_left(backbone.model, smaller.model) < 1
    whole = pruning.pruned(backbone.model, keep_LF=torch.ones_like(keep), mean_LF=mean_LF)
    assert torch.equal(type(backbone)(whole, backbone.tokenizer).scores(batch, prompt), plain)


def test_roberta_base_pruned_as_in_the_paper_leaves_two_thirds():
    from transformers import RobertaConfig, RobertaForMaskedLM

    base = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        model = RobertaForMaskedLM(base)
    mask = torch.zeros(12, 3072, dtype=torch.bool)
    mask[:, : round(0.02 * 3072)] = True
    keep = pruning.keep_mask(mask, layers=9)
    smaller = pruning.pruned(model, keep_LF=keep, mean_LF=torch.zeros(12, 3072))
    assert pruning.parameters_left(model, smaller) == pytest.approx(0.666, abs=5e-4)


def test_a_feed_forward_block_that_is_not_known_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks_of_mine = nn.ModuleList([nn.Linear(4, 4)])

    with pytest.raises(ValueError, match=r"Odd.*down-projection.*blocks_of_mine"):
        down_projections(Odd())


def test_a_name_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"backbone.name=.*nowhere"):
        HubBackbone(name=str(tmp_path / "nowhere")).tokenizer()
