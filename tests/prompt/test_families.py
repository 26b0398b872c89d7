"""Every family by path, on tiny models: what is read, edited, removed and tuned is the model's own.

Shape legend: B examples, T positions, L layers, P prompt tokens, F neurons, C classes.
"""

import pytest
import torch

from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.families import down_projections, start_token
from lightning_modules.prompt.last_layer import LEAN, asked_alone, can_ask_alone
from lightning_modules.skill_neurons import predictivity as skill_neurons
from lightning_modules.skill_neurons.hooks import Perturbation, at_prompt, hooked
from lightning_modules.skill_neurons.removal import keep_mask, parameters_left, pruned
from lightning_modules.transfer.indicators import active_LF
from tests.prompt import tiny

# The modules whose outputs, multiplied, are a layer's neurons.
ACTIVATIONS = {
    **dict.fromkeys(("bert", "roberta", "deberta_v2", "deberta_tied"), ("intermediate",)),
    "distilbert": ("ffn.activation",),
    "gpt2": ("mlp.act",),
    "llama": ("mlp.act_fn", "mlp.up_proj"),
    "t5": ("DenseReluDense.act",),
    "t5_gated": ("DenseReluDense.act", "DenseReluDense.wi_1"),
}


class Case:
    def __init__(self, family: str, folder) -> None:
        self.family, self.spec = family, tiny.HubBackbone(name=tiny.save(family, folder))
        self.backbone, self.data = self.spec.load(), tiny.data(self.spec)
        self.prompt = tiny.prompt_of(self.backbone)
        self.batch = tiny.batches(self.data, "val", 8)[0]

    def scores(self, model=None):
        backbone = Backbone(model, self.backbone.tokenizer) if model is not None else self.backbone
        with torch.no_grad():
            return backbone.scores(self.batch, self.prompt)

    def hooks(self) -> int:
        return sum(len(m._forward_pre_hooks) for m in self.backbone.modules())


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def whole_logits(backbone: Backbone, batch: dict) -> torch.Tensor:
    """[B, V] of the transformers model's own forward from token numbers."""
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if backbone.kind == "seq2seq":
        start = torch.full((len(batch["ask"]), 1), start_token(backbone.model))
        return backbone.model(**asked, decoder_input_ids=start).logits[:, 0]
    return backbone.model(**asked).logits[torch.arange(len(batch["ask"])), batch["ask"]]


def test_neurons_are_the_output_of_the_activation_bit_for_bit(case):
    encoder = case.backbone.model.get_encoder() if case.backbone.kind == "seq2seq" else case.backbone.model
    parts = [[m for n, m in encoder.named_modules() if n.endswith(ending)] for ending in ACTIVATIONS[case.family]]
    made: dict[torch.nn.Module, torch.Tensor] = {}
    handles = [m.register_forward_hook(lambda m, _a, out: made.update({m: out})) for modules in parts for m in modules]
    seen = {}
    with hooked(case.backbone.sites(), lambda layer, x_BTF: seen.update({layer: x_BTF.clone()})):
        case.scores()
    for handle in handles:
        handle.remove()
    assert sorted(seen) == list(range(tiny.LAYERS))
    assert all(len(modules) == tiny.LAYERS for modules in parts)
    for layer, factors in enumerate(zip(*parts, strict=True)):
        expected = made[factors[0]] if len(factors) == 1 else made[factors[0]] * made[factors[1]]
        assert seen[layer].shape[-1] == tiny.FFN
        assert torch.equal(seen[layer], expected)


def test_observers_change_no_bit_and_leave_no_hook(case):
    plain = case.scores()
    with hooked(case.backbone.sites(), lambda _layer, _x: None):
        assert torch.equal(case.scores(), plain)
    with pytest.raises(RuntimeError, match="on purpose"), hooked(case.backbone.sites(), lambda *_: 1 / 0):
        raise RuntimeError("on purpose")
    with pytest.raises(ZeroDivisionError), hooked(case.backbone.sites(), lambda *_: 1 / 0):
        case.scores()
    assert case.hooks() == 0
    assert torch.equal(case.scores(), plain)


@torch.no_grad()
def test_without_a_prompt_it_is_the_models_own_forward(case):
    batch = tiny.batches(tiny.data(case.spec, prompt_length=0), "val", 8)[0]
    expected = whole_logits(case.backbone, batch)
    for prompt in (None, torch.zeros(0, case.backbone.width)):
        assert torch.allclose(case.backbone.logits(batch, prompt), expected, atol=1e-5)
        assert torch.allclose(case.backbone.scores(batch, prompt), expected[:, batch["label_ids"]], atol=1e-5)


@torch.no_grad()
def test_a_prompt_of_word_embeddings_is_those_words(case):
    ids = torch.tensor([12, 13, 10])
    at = int(case.batch["prompt_at"])
    written = {**case.batch, "input_ids": case.batch["input_ids"].clone()}
    written["input_ids"][:, at : at + 3] = ids
    prompt = case.backbone.words(ids)
    expected = whole_logits(case.backbone, written)[:, case.batch["label_ids"]]
    assert torch.allclose(case.backbone.scores(case.batch, prompt), expected, atol=1e-5)
    per_example = prompt.expand(len(expected), -1, -1)
    assert torch.equal(case.backbone.scores(case.batch, per_example), case.backbone.scores(case.batch, prompt))


@torch.no_grad()
def test_padding_says_nothing(case):
    plain = case.scores()
    wider = dict(case.batch)
    size = len(case.batch["ask"])
    wider["input_ids"] = torch.cat([case.batch["input_ids"], torch.full((size, 5), case.data.pad)], 1)
    wider["attention_mask"] = torch.cat([case.batch["attention_mask"], torch.zeros(size, 5, dtype=torch.long)], 1)
    assert torch.allclose(case.backbone.scores(wider, case.prompt), plain, atol=1e-5)


def brute_force(case, *, labels_RN, balanced) -> torch.Tensor:
    """Predictivity [R, L, F] by storing every activation, one example a forward."""

    def stored(split: str) -> torch.Tensor:
        found = []
        for batch in tiny.batches(case.data, split, 1):
            layers = {}
            with hooked(case.backbone.sites(), lambda i, x, layers=layers: layers.update({i: x[0]})), torch.no_grad():
                case.backbone.answer(batch, case.prompt)
            at = int(batch["prompt_at"])
            # A causal model's prompt cannot see the text: its neurons are read where it is asked.
            place = (
                slice(at, at + 3) if case.backbone.kind != "causal" else slice(int(batch["ask"]), int(batch["ask"]) + 1)
            )
            found.append(torch.stack([layers[i][place] for i in range(tiny.LAYERS)]))
        return torch.stack(found)

    above_NLPF = stored("val") > stored("train").double().mean(0).float()
    rows = []
    for labels_N in labels_RN:
        sides = [(above_NLPF[labels_N == c] == bool(c)).double() for c in (0, 1)]
        accuracy = (sides[0].mean(0) + sides[1].mean(0)) / 2 if balanced else torch.cat(sides).mean(0)
        rows.append(torch.maximum(accuracy, 1 - accuracy).amax(1))
    return torch.stack(rows).float()


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [False, True])
def test_the_streaming_finder_equals_brute_force_whatever_the_batch(case, balanced):
    labels_N = torch.tensor(case.data.task.labels["val"])
    labels_RN = skill_neurons.permuted_labels(labels_N, permutations=2, seed=3)
    expected = brute_force(case, labels_RN=labels_RN, balanced=balanced)
    assert expected[0].unique().numel() > 3
    for size in (1, 5, 64):
        train, dev = (tiny.batches(case.data, split, size) for split in ("train", "val"))
        about = dict(labels_N=labels_N, prompt=case.prompt, classes=2, permutations=2, balanced=balanced, seed=3)
        assert torch.allclose(skill_neurons.find(case.backbone, train=train, dev=dev, **about), expected, atol=1e-6)


def some_neurons(seed: int = 2) -> torch.Tensor:
    return torch.rand(tiny.LAYERS, tiny.FFN, generator=torch.Generator().manual_seed(seed)) < 0.3


def test_keeping_all_neurons_is_the_identity(case):
    keep_LF = torch.ones(tiny.LAYERS, tiny.FFN, dtype=torch.bool)
    same = pruned(case.backbone.model, keep_LF=keep_LF, mean_LF=torch.ones(keep_LF.shape))
    assert torch.equal(case.scores(same), case.scores())


def test_removing_neurons_equals_fixing_them_to_their_mean(case):
    moments = skill_neurons.moments(case.backbone, tiny.batches(case.data, "train", 8), case.prompt)
    keep_LF = keep_mask(some_neurons(), layers=2)
    assert keep_LF[0].all()
    assert not keep_LF[1:].all()
    ablation = Perturbation(mask_LF=~keep_LF, kind="mean", mean_LF=moments.mean_LF)
    with hooked(case.backbone.sites(), ablation):
        ablated = case.scores()
    smaller = pruned(case.backbone.model, keep_LF=keep_LF, mean_LF=moments.mean_LF)
    assert torch.allclose(case.scores(smaller), ablated, atol=1e-5)
    assert not torch.allclose(ablated, case.scores(), atol=1e-2)
    assert parameters_left(case.backbone.model, smaller) < 1
    assert [m.weight.numel() for m in down_projections(smaller).values()] == [
        tiny.WIDTH * int(n) for n in keep_LF.sum(1)
    ]


def test_no_noise_and_no_neurons_change_nothing(case):
    plain = case.scores()
    every = torch.ones(tiny.LAYERS, tiny.FFN, dtype=torch.bool)
    for edit in (Perturbation(mask_LF=every, alpha=0.0), Perturbation(mask_LF=~every, kind="zero")):
        with hooked(case.backbone.sites(), edit):
            assert torch.equal(case.scores(), plain)
    with hooked(case.backbone.sites(), Perturbation(mask_LF=every)):
        assert not torch.allclose(case.scores(), plain, atol=1e-2)


def test_moments_are_those_of_all_positions_but_padding(case):
    stored = [[] for _ in range(tiny.LAYERS)]
    for batch in tiny.batches(case.data, "train", 1):
        with hooked(case.backbone.sites(), lambda i, x: stored[i].append(x[0])), torch.no_grad():
            case.backbone.answer(batch, case.prompt)
    rows = torch.stack([torch.cat(layer) for layer in stored]).double()
    found = skill_neurons.moments(case.backbone, tiny.batches(case.data, "train", 7), case.prompt)
    assert torch.allclose(found.mean_LF.double(), rows.mean(1), atol=1e-5)
    assert torch.allclose(found.std_LF.double(), rows.std(1, correction=0), atol=1e-4)


def test_roberta_base_pruned_as_in_the_paper_keeps_two_thirds_of_its_parameters():
    from transformers import RobertaConfig, RobertaForMaskedLM

    shape = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        model = RobertaForMaskedLM(RobertaConfig(**shape))
        mean_LF = torch.empty(12, 3072)
    predictivity_LF = torch.rand(12, 3072, generator=torch.Generator().manual_seed(0))
    keep_LF = keep_mask(skill_neurons.select(predictivity_LF, share=0.02), layers=9)
    left = parameters_left(model, pruned(model, keep_LF=keep_LF, mean_LF=mean_LF))
    assert f"{left:.1%}" == "66.6%"


@torch.no_grad()
def test_lean_scores_are_the_scores(case):
    lean = case.backbone.scores(case.batch, case.prompt, lean=True)
    torch.testing.assert_close(lean, case.scores(), atol=1e-5, rtol=1e-5)
    assert not any(m._forward_hooks for m in case.backbone.modules())


@torch.no_grad()
def test_neurons_at_the_prompt_are_read_in_a_forward_that_ends_with_the_last_of_them(case):
    whole, found, ran = {}, {}, []
    read = lambda layer, x_BTF: whole.update({layer: case.backbone.read(x_BTF, case.batch, 3)})  # noqa: E731
    with hooked(case.backbone.sites(), read):
        case.scores()
    handle = case.backbone.sites()[-1].register_forward_hook(lambda *_: ran.append(True))
    at_prompt(case.backbone, case.batch, case.prompt, lambda layer, x_BPF: found.update({layer: x_BPF.clone()}))
    handle.remove()
    assert found.keys() == whole.keys() and not ran
    for layer, expected in whole.items():
        torch.testing.assert_close(found[layer], expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(ZeroDivisionError):
        at_prompt(case.backbone, case.batch, case.prompt, lambda *_: 1 / 0)
    assert case.hooks() == 0 and torch.equal(case.scores(), case.scores())


@torch.no_grad()
def test_berts_kin_ask_with_one_query_a_text_unless_their_attention_is_another(case, monkeypatch):
    model = case.backbone.model
    assert can_ask_alone(model) == (case.family in LEAN)
    if not can_ask_alone(model):
        return
    layer, asked = model.base_model.encoder.layer[-1], []
    layer.attention.self.query.register_forward_pre_hook(lambda _m, args: asked.append(args[0].shape[1]))
    case.backbone.scores(case.batch, case.prompt, lean=True)
    case.scores()
    layer.attention.self.query._forward_pre_hooks.clear()
    assert asked == [1, case.batch["input_ids"].shape[1]]
    with pytest.raises(ZeroDivisionError), asked_alone(layer, lambda found: found / (1 // 0)):
        case.scores()
    assert case.hooks() == 0 and "forward" not in vars(layer.attention.self)
    monkeypatch.setattr(model.config, "_attn_implementation", "eager")
    assert not can_ask_alone(model)


@torch.no_grad()
def test_firing_neurons_are_those_with_a_positive_gate_or_activation(case):
    active = active_LF(case.backbone, case.data, case.prompt)
    assert active.shape == (len(case.backbone.sites()), case.backbone.sites()[0].weight.numel() // case.backbone.width)
    assert 0 < active.float().mean() < 1
    assert case.hooks() == 0 and not any(m._forward_hooks for m in case.backbone.modules())


def test_a_decoder_begins_as_it_does_when_it_generates():
    """Where the token stands in the generation config alone, BOS is not it."""
    from transformers import BartConfig, BartForConditionalGeneration

    shape = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    model = BartForConditionalGeneration(
        BartConfig(**shape, encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=26, bos_token_id=0)
    )
    model.config.decoder_start_token_id, model.generation_config.decoder_start_token_id = None, 2
    said = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=1)
    assert start_token(model) == int(said[0, 0]) == 2
