"""Transfer: many prompts at once equal one at a time, indicators, projectors, and tuning from a transferred start."""

import fnmatch
import itertools
import os
import sys

import numpy as np
import pandas
import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.look import page
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.prompt.backbones import HubBackbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.skill_neurons.hooks import hooked
from lightning_modules.skill_neurons.prompt_study import accuracy
from lightning_modules.transfer import checks
from lightning_modules.transfer import indicators as ind
from lightning_modules.transfer.curves import curve, speed_ups
from lightning_modules.transfer.projector import VARIANTS, Projector, ProjectorTraining, train_projector
from lightning_modules.transfer.stacked import stack, stacked_accuracy, stacked_scores
from lightning_modules.transfer.studies import Indicators, Transfer, relative_to
from tests import forks
from tests.desks import Undrawn
from tests.families import text
from tests.prompt import tiny, toy

TASKS = ["sentiment_film", "number_film", "topic_four"]


@pytest.fixture
def prompts(tmp_path):
    return toy.prompts(tmp_path)


@pytest.fixture
def drawn():
    return torch.randn(5, 4, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("task", TASKS)
def test_many_prompts_at_once_equal_one_at_a_time(prompts, drawn, task):
    data = prompts.data(task)
    batch = data.examples("test")[:9]
    with torch.no_grad():
        alone = torch.stack([prompts.backbone.scores(batch, prompt) for prompt in drawn])
    torch.testing.assert_close(stacked_scores(prompts.backbone, batch, drawn), alone, atol=1e-6, rtol=1e-6)
    each = torch.tensor([accuracy(prompts.backbone, data, prompt) for prompt in drawn])
    for rows in (3, 7, 64, 1000):
        torch.testing.assert_close(stacked_accuracy(prompts.backbone, data, drawn, rows=rows), each)


def test_the_flipped_task_scores_one_minus_the_accuracy(prompts, drawn):
    data = prompts.data("sentiment_film")
    plain = stacked_accuracy(prompts.backbone, data, drawn)
    flipped = toy.prompts(prompts.cache).data("sentiment_film")
    object.__setattr__(flipped.task, "classes", data.task.classes[::-1])
    torch.testing.assert_close(stacked_accuracy(prompts.backbone, flipped, drawn), 1 - plain)


def test_relative_performance_on_the_diagonal_is_one(prompts):
    study = Transfer(prompts=prompts, tasks=TASKS, trials=2, permutations=0)
    relative = study.relative["tuned"]
    assert relative.shape == (3, 3, 2)
    assert (torch.stack([relative[i, i] for i in range(3)]) == 1).all()


def probe(prompts, prompt, task="sentiment_film"):
    active = ind.active_LF(prompts.backbone, prompts.data(task), prompt)
    pred = torch.rand(active.shape, generator=torch.Generator().manual_seed(int(prompt.abs().sum() * 100)))
    return ind.Probe(task, prompt, active, pred, pred > 0.5)


@pytest.mark.parametrize("name", ind.INDICATORS)
def test_indicators_of_oneself_and_their_symmetry(prompts, drawn, name):
    with torch.no_grad():
        # Weights fresh from initialisation are too small for a prompt to switch a neuron.
        for weight in prompts.backbone.model.parameters():
            weight.mul_(10)
    a, b = (probe(prompts, p) for p in drawn[:2])
    function = ind.INDICATORS[name]
    assert function(a, b) == pytest.approx(function(b, a), abs=1e-6)
    assert function(a, b) <= 1 + 1e-6
    if name not in ("e_avg", "c_avg"):
        assert function(a, a) == pytest.approx(1.0, abs=1e-6)
    assert function(a, a) > function(a, b)


def test_the_embedding_indicators_by_their_formulas():
    a, b = (
        ind.Probe("a", torch.tensor([[1.0, 0.0], [0.0, 1.0]])),
        ind.Probe("b", torch.tensor([[1.0, 0.0], [1.0, 0.0]])),
    )
    assert ind.e_concat(a, b) == pytest.approx(1 / (1 + 2**0.5))
    assert ind.e_avg(a, b) == pytest.approx(1 / (1 + 2**0.5 / 2))
    assert ind.c_concat(a, b) == pytest.approx(0.5)
    assert ind.c_avg(a, b) == pytest.approx(0.5)


def test_prompts_that_hardly_moved_from_one_start_are_told_apart():
    """Of embeddings as large as T5's, thirty steps of 1e-3 are a thousandth: in float32 rounding ranked the sources."""
    draw = np.random.default_rng(0)
    start = 10 * draw.standard_normal((100, 64))
    target, *sources = ((start + 0.01 * draw.standard_normal(start.shape)).astype("float32") for _ in range(13))

    def by_formula(name, x, y):
        x, y = x.astype(float), y.astype(float)
        lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
        return {
            "e_concat": 1 / (1 + np.linalg.norm(x - y)),
            "e_avg": 1 / (1 + np.linalg.norm(x[:, None] - y, axis=-1).mean()),
            "c_concat": (x * y).sum() / (np.linalg.norm(x) * np.linalg.norm(y)),
            "c_avg": (x @ y.T / lengths).mean(),
        }[name]

    for name in ("e_concat", "e_avg", "c_concat", "c_avg"):
        own = ind.Probe("target", torch.tensor(target))
        found = [ind.INDICATORS[name](own, ind.Probe("source", torch.tensor(source))) for source in sources]
        expected = [by_formula(name, target, source) for source in sources]
        assert np.argsort(found).tolist() == np.argsort(expected).tolist(), name


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 12])
def test_every_window_of_layers_holds_one(layers):
    probe = ind.Probe("film", torch.zeros(1, 1), torch.ones(layers, 4, dtype=torch.bool))
    assert [ind.INDICATORS[name](probe, probe) for name in ("on_bottom", "on_middle", "on_top")] == [1.0, 1.0, 1.0]


def test_overlap_by_its_formula():
    a, b = torch.tensor([1, 1, 0, 1], dtype=torch.bool), torch.tensor([1, 0, 0, 1], dtype=torch.bool)
    assert ind.overlap(a, b) == pytest.approx(2 / (3 * 2) ** 0.5)
    assert ind.overlap(a, torch.zeros(4, dtype=torch.bool)) == 0.0


@pytest.mark.parametrize("template", ["{mask}{prompt}{text}{sep}", "{prompt}{mask}{text}{sep}"])
def test_activations_are_read_where_the_template_asks(tmp_path, drawn, template):
    prompts = toy.prompts(tmp_path, template=template)
    data = prompts.data("sentiment_film")
    seen = {}
    with torch.no_grad(), hooked(prompts.backbone.sites(), lambda layer, x: seen.__setitem__(layer, x[0])):
        encoded = data.template.encode([""], data.tokenizer)
        ids = torch.tensor(encoded["rows"])
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "ask": torch.tensor(encoded["ask"])}
        prompts.backbone.answer({**data.common, **asked}, drawn[0])
    assert encoded["ask"][0] == template.replace("{prompt}", "pppp").replace("{mask}", "M").index("M")
    expected = torch.stack([seen[layer][encoded["ask"][0]] > 0 for layer in sorted(seen)])
    assert torch.equal(ind.active_LF(prompts.backbone, data, drawn[0]), expected)


def halves(out):
    return out.chunk(2, -1)


# What fires of a layer, from the outputs of its linear layers by the family's own names for them.
FIRES = {
    "ModernBertForMaskedLM": ("mlp.Wi", lambda out: halves(out)[0]),
    "Phi3ForCausalLM": ("mlp.gate_up_proj", lambda out: halves(out)[0]),
    "PhiForCausalLM": ("mlp.fc1", lambda out: out),
    "LlamaForCausalLM": ("mlp.gate_proj", lambda out: out),
    "T5GemmaForConditionalGeneration": ("decoder.layers.*.mlp.gate_proj", lambda out: out),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRES)
def test_a_gate_of_a_family_with_other_names_is_found(name, tmp_path):
    text.saved(name, tmp_path)
    spec = HubBackbone(name=str(tmp_path))
    backbone, data = spec.load(), tiny.data(spec)
    ending, fires = FIRES[name]
    expected, prompt = [], tiny.prompt_of(backbone)
    for found, module in backbone.model.named_modules():
        if fnmatch.fnmatch(found, f"*{ending}"):
            module.register_forward_hook(lambda _m, _a, out: expected.append(fires(out)[0] > 0))
    active = ind.active_LF(backbone, data, prompt)
    # Where the blocks are was found by a forward of its own before.
    ask = 0 if backbone.kind == "seq2seq" else data.template.encode([""], data.tokenizer)["ask"][0]
    assert torch.equal(active, torch.stack(expected[-2:])[:, ask]) and len(active) == 2
    assert 0 < active.float().mean() < 1


def test_an_indicator_without_activations_says_so(drawn):
    bare = ind.Probe("film", drawn[0])
    with pytest.raises(ValueError, match=r"film: its probe has no active"):
        ind.on(bare, bare)
    with pytest.raises(ValueError, match=r"no predictivity"):
        ind.spearman(bare, bare)


@pytest.mark.slow
def test_correlation_finds_a_planted_indicator_and_no_more():
    draw = np.random.default_rng(0)
    transfer = draw.random((10, 10))
    off = ~np.eye(10, dtype=bool)
    planted = ind.correlation(transfer + 0.01 * draw.random((10, 10)), transfer, off, draws=200)
    assert planted["rho"] > 0.95 and planted["p"] < 0.01 and planted["low"] > 0.9
    noise = ind.correlation(draw.random((10, 10)), transfer, off, draws=200)
    assert noise["p"] > 0.05 and noise["low"] < 0 < noise["high"]
    # Two sources of its skill a target: their order is right everywhere.
    skills = {f"t{i}": str(i // 3) for i in range(10)}
    cells = ind.choices(skills, list(skills))
    within = ind.correlation(transfer, transfer, cells["within"], draws=200)
    assert within["rho"] == pytest.approx(1.0) and within["p"] < 0.05
    assert np.isnan(ind.per_target(transfer, transfer, cells["within"])).tolist() == [False] * 9 + [True]
    # The diagonal is left out: making it huge changes nothing.
    spoiled = ind.correlation(np.where(off, transfer, 1e6), transfer, off, draws=20)
    assert spoiled["rho"] == pytest.approx(1.0)


def test_a_p_value_counts_ties_as_reached():
    """Equal means in another order of the targets differ in their last bit: with few tasks many exchanges are ties."""
    off = ~np.eye(4, dtype=bool)
    for seed in (7, 224):
        draw = np.random.default_rng(seed)
        near, transfer = draw.integers(0, 4, (4, 4)), draw.integers(0, 3, (4, 4)) / 7
        near = (near + near.T).astype(float)
        orders = itertools.permutations(range(4))
        means = [np.nanmean(ind.per_target(near[np.ix_(order, order)], transfer, off)) for order in orders]
        expected = np.mean(np.array(means) >= means[0] - 1e-6)
        assert ind.correlation(near, transfer, off, draws=600)["p"] == pytest.approx(expected, abs=0.06), seed


def test_controls_are_not_exchanged_for_a_p_value(prompts, tmp_path, monkeypatch):
    seen = []
    found = dict.fromkeys(("rho", "p", "low", "high"), 0.5)
    monkeypatch.setattr(ind, "correlation", lambda *given, **_: seen.append(given) or found)
    tasks = ["sentiment_film", "sentiment_flipped", "number_film", "topic_four"]
    names = ["e_concat", "c_avg"]
    shared = dict(trials=1, permutations=0, names=names, controls=["sentiment_flipped"])
    Indicators(prompts=prompts, tasks=tasks, **shared).run(Undrawn(folder=tmp_path))
    assert len(seen) == 6
    assert {array.shape for given in seen for array in given} == {(3, 3)}


def test_what_a_prompt_that_is_never_right_is_relative_to_is_no_number():
    own, scores = torch.tensor([[0.5], [0.0]]), torch.tensor([[0.25, 0.5], [0.0, 0.5]])
    found = relative_to(own, scores)
    assert found[0].tolist() == [0.5, 1.0]
    assert found[1].isnan().all()


def test_sums_by_type_are_of_the_right_cells():
    cells = ind.choices({"a": "x", "b": "x", "c": "y"}, ["a", "b", "c"])
    assert cells["within"].tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert cells["across"].sum() == 4 and cells["all"].sum() == 6


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_the_projector_and_nothing_else(prompts, tmp_path, variant):
    wide = toy.spec(tmp_path, hidden_size=24, seed=1).load()
    source = torch.randn(2, 4, 24)
    settings = dict(prompts_NPH=source, targets_NPG=torch.randn(2, 4, 16), backbone=prompts.backbone)
    data = [prompts.datamodule(t, seed=0) for t in TASKS[:2]]
    before = prompts.backbone.fingerprint()
    projector = Projector(length=4, source=wide.width, target=16, variant=variant, scale=0.02)
    module = ProjectorTraining(projector=projector, data=data, **settings)
    module.training_step(torch.tensor(0), 0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projector.parameters())
    assert not any(p.requires_grad for p in prompts.backbone.parameters())
    assert {id(p) for g in module.configure_optimizers().param_groups for p in g["params"]} == {
        id(p) for p in projector.parameters()
    }
    for objective in ("task", "distance"):
        trained = train_projector(steps=3, seed=0, data=data, objective=objective, variant=variant, **settings)
        again = train_projector(steps=3, seed=0, data=data, objective=objective, variant=variant, **settings)
        assert torch.equal(trained(source), again(source))
    assert prompts.backbone.fingerprint() == before
    with pytest.raises(ValueError, match=r"\(4, 16\); expected \(4, 24\)"):
        projector(torch.randn(1, 4, 16))


def test_distance_minimising_finds_the_targets(prompts, tmp_path):
    settings = dict(
        prompts_NPH=torch.randn(2, 4, 24), targets_NPG=0.02 * torch.randn(2, 4, 16), backbone=prompts.backbone
    )
    trained = train_projector(steps=300, seed=0, data=[], objective="distance", **settings)
    with torch.no_grad():
        left = (trained(settings["prompts_NPH"]) - settings["targets_NPG"]).square().mean()
    assert left < 0.1 * settings["targets_NPG"].square().mean()


def test_a_projector_begins_at_the_spread_of_what_the_embedding_gives():
    """Gemma's embedding multiplies its table by the root of the width."""
    import transformers as t

    sizes = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    common = dict(vocab_size=len(tiny.WORDS), pad_token_id=1, intermediate_size=24, max_position_embeddings=64)
    target = Backbone(t.Gemma2ForCausalLM(t.Gemma2Config(**common, **sizes)), tiny.tokenizer())
    table = target.model.get_input_embeddings().weight
    sources, targets = torch.zeros(1, 3, 8), torch.zeros(1, 3, 64)
    settings = dict(backbone=target, prompts_NPH=sources, targets_NPG=targets, data=[], objective="distance", lr=1e-9)
    made = train_projector(steps=1, seed=0, **settings)
    assert torch.allclose(made.norm.weight, (8 * table.std()).expand(64), rtol=1e-3)


def test_a_transferred_start_begins_at_its_zero_shot_score(prompts):
    start = prompts.prompt("number_film", seed=1).weight
    found = curve(prompts, "sentiment_film", seed=2, start=start, cadence=2, arm="a start")
    assert list(found) == [0, 2, 4]
    zero_shot = stacked_accuracy(prompts.backbone, prompts.data("sentiment_film"), start[None], split="val")
    assert found[0] == pytest.approx(float(zero_shot))


@pytest.mark.parametrize(("cadence", "steps"), [(2, [0, 2, 4]), (3, [0, 3, 4]), (9, [0, 4])])
def test_a_tunings_last_accuracy_is_that_of_its_last_step(prompts, cadence, steps):
    found = curve(prompts, "sentiment_film", seed=2, start=None, cadence=cadence, arm="vanilla")
    assert list(found) == steps
    tuned = prompts.prompt("sentiment_film", seed=2).weight
    assert found[4] == accuracy(prompts.backbone, prompts.data("sentiment_film"), tuned, split="val")
    speed_ups(found, found, tolerance=0.01)


def test_vanilla_tuning_is_that_of_the_kept_prompt_where_each_task_has_its_own_start(tmp_path):
    prompts = toy.prompts(tmp_path, starts="own")
    seen = []
    put = PromptTuning.on_fit_start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptTuning, "on_fit_start", lambda m: seen.append(m.tuner.weight.detach().clone()) or put(m))
        curve(prompts, "sentiment_film", seed=2, start=None, cadence=4, arm="vanilla")
        prompts.prompt("sentiment_film", seed=2)
    assert torch.equal(*seen)


def test_a_cadence_that_no_tuning_reaches_is_refused():
    for cadence, said in ((4, []), (5, ["study.cadence is 5; expected at most tuning.steps, which is 4."])):
        cfg = OmegaConf.create({"study": {"cadence": cadence}, "tuning": {"steps": 4}})
        assert list(checks.tuning_is_measured_on_its_way(cfg)) == said


def test_speed_ups_are_censored_and_never_divide_by_zero():
    vanilla = {0: 0.5, 10: 0.7, 20: 0.9, 30: 0.9}
    assert speed_ups(vanilla, {0: 0.6, 10: 0.9, 20: 0.9, 30: 0.9}, tolerance=0.0) == {
        "convergence": 2.0,
        "comparable": 2.0,
    }
    assert speed_ups(vanilla, {0: 0.9, 10: 0.9, 20: 0.9, 30: 0.9}, tolerance=0.0) == {
        "convergence": 2.0,
        "comparable": 2.0,
    }
    worse = speed_ups(vanilla, {0: 0.6, 10: 0.6, 20: 0.6, 30: 0.8}, tolerance=0.0)
    assert worse == {"convergence": 20 / 30, "comparable": None}


def test_an_accuracy_that_is_the_tolerance_below_is_within_it():
    """0.1 - 0.01 and 0.13 - 0.01 are more than 0.09 and 0.12."""
    for best in range(2, 101):
        found = {0: 0.0, 10: (best - 1) / 100, 20: best / 100}
        assert speed_ups(found, found, tolerance=0.01) == {"convergence": 1.0, "comparable": 1.0}
        late = {0: 0.0, 10: 0.0, 20: (best - 1) / 100}
        assert speed_ups(found, late, tolerance=0.01)["comparable"] == 0.5


HASHED = """
import hashlib, pathlib, sys
from lightning_modules.runtime import lean
lean.prepare()
from tests.desks import Undrawn
from lightning_modules.skill_neurons.studies import SkillNeurons
from lightning_modules.transfer.studies import Indicators
from tests.families import text
from tests.prompt import tiny, toy
prompts, folder = toy.prompts(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[1])
print(prompts.prompt("domain_three", seed=1).weight.sum().item(), prompts.data("domain_three").fingerprint())
tasks = ["sentiment_film", "sentiment_shop", "sentiment_flipped", "number_film"]
for kind, own in ((SkillNeurons, {}), (Indicators, dict(draws=5, controls=["sentiment_flipped"]))):
    study = kind(prompts=prompts, tasks=tasks, trials=2, permutations=2, share=0.1, **own)
    print(study.run(Undrawn(folder=folder, page=True)))
for path in [*sorted(folder.glob("tables/*.csv")), folder / "look.html"]:
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_nothing_depends_on_the_hash_seed(tmp_path):
    found = set()
    # The one that is forked has the seed of the process that forks it, which is drawn.
    for name, seed in (("1", {"PYTHONHASHSEED": "1"}), ("2", {})):
        command = [sys.executable, "-c", HASHED, str(tmp_path / name)]
        done = forks.run(command, cwd=forks.PROJECT, env=os.environ | seed, timeout=300, really=bool(seed))
        assert done.returncode == 0, done.stderr[-2000:]
        found.add(done.stdout)
    assert len(found) == 1 and "indicators.csv" in found.pop()
    # What the page shows is what the tables hold.
    (shown,) = page.read(tmp_path / "1" / "look.html")["runs"]
    table = pandas.read_csv(tmp_path / "1" / "tables" / "relative.csv", index_col="target").drop(columns="skill")
    assert shown["sources"] == list(table)
    assert np.array(shown["matrices"]["relative"], float) == pytest.approx(table.to_numpy(), abs=1e-5, nan_ok=True)
    assert set(ind.INDICATORS) < set(shown["matrices"])
    assert [len(rows) for rows in shown["words"].values()] == [4] * 4


def test_prompts_of_one_matrix_stack(prompts):
    files = [prompts.prompt(t, seed=1) for t in TASKS]
    assert stack(files).shape == (3, 4, 16)
