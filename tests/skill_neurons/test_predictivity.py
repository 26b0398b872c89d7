"""The finder against a reference that stores everything, its null, selection, and perturbations."""

import pytest
import torch

from datamodules.tasks.task import SPLITS
from lightning_modules.prompt.backbone import Backbone
from lightning_modules.skill_neurons import perturb
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import Perturbation, hooked
from lightning_modules.skill_neurons.perturb import Perturb
from lightning_modules.skill_neurons.prompt_study import PromptStudy, accuracy
from lightning_modules.skill_neurons.single_neurons import (
    answered,
    neuron_accuracy,
    read,
    top_by_layer,
    word_activation,
)
from lightning_modules.skill_neurons.studies import SkillNeurons
from tests.prompt import toy


@pytest.fixture
def prompts(tmp_path):
    return toy.prompts(tmp_path)


def start(prompts, seed=0):
    tuner = prompts.soft(seed=seed)
    tuner.attach(prompts.backbone)
    return tuner.weight.detach()


def stored(prompts, data, split, prompt):
    """Every activation at the prompt tokens, [N, L, P, F]: the way that needs memory."""
    kept = []
    for n in range(len(data.examples(split))):
        batch, layers = data.examples(split)[n : n + 1], []
        at = int(batch["prompt_at"])
        with hooked(
            prompts.backbone.sites(), lambda i, x, layers=layers, at=at: layers.append(x[0, at : at + len(prompt)])
        ):
            prompts.backbone.answer(batch, prompt)
        kept.append(torch.stack(layers))
    return torch.stack(kept)


@pytest.mark.parametrize("task", ["sentiment_film", "topic_four", "domain_three"])
@pytest.mark.parametrize("eval_batch", [5, 256])
@torch.no_grad()
def test_the_finder_equals_a_reference_that_stores_all(prompts, task, eval_batch):
    data, prompt = prompts.data(task), start(prompts)
    data.eval_batch = eval_batch
    labels, classes = data.examples("val").labels, len(data.task.classes)
    found = sn.find(
        prompts.backbone,
        train=data.fixed("train"),
        dev=data.fixed("val"),
        labels_N=labels,
        prompt=prompt,
        classes=classes,
        permutations=2,
    )
    base = stored(prompts, data, "train", prompt).mean(0)
    bits = (stored(prompts, data, "val", prompt) > base).float()
    for row, asked in enumerate(sn.permuted_labels(labels, permutations=2, seed=0)):
        expected = []
        for low, high in sn.subtasks(classes):
            sides = [(1 - bits[torch.isin(asked, torch.tensor(low))]), bits[torch.isin(asked, torch.tensor(high))]]
            right = torch.cat(sides).mean(0) if classes == 2 else (sides[0].mean(0) + sides[1].mean(0)) / 2
            expected.append(torch.maximum(right, 1 - right).amax(1))
        torch.testing.assert_close(found[row], torch.stack(expected).mean(0), atol=1e-5, rtol=0)


class Shuffled:
    """A data set's batches in another order of its examples."""

    def __init__(self, examples, order_N):
        self.examples, self.order_N = examples, order_N.tolist()

    def __iter__(self):
        for start in range(0, len(self.order_N), 11):
            yield self.examples.__getitems__(self.order_N[start : start + 11])


def test_the_order_of_examples_changes_nothing(prompts):
    data, prompt = prompts.data("sentiment_film"), start(prompts)
    settings = dict(prompt=prompt, classes=2)
    found = []
    for seed in (0, 1):
        orders = {
            s: torch.randperm(len(data.examples(s)), generator=torch.Generator().manual_seed(seed)) for s in SPLITS
        }
        train, dev = (Shuffled(data.examples(s), orders[s]) for s in ("train", "val"))
        labels = data.examples("val").labels[orders["val"]]
        found.append(sn.find(prompts.backbone, train=train, dev=dev, labels_N=labels, **settings))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


def test_predictivity_is_the_mean_over_the_trials_prompts(prompts):
    study = PromptStudy(prompts=prompts, tasks=["number_film"], trials=3, permutations=2, seed=2)
    assert study.seeds() == [2000, 2001, 2002]
    data = prompts.data("number_film")
    each = [
        sn.find(
            prompts.backbone,
            train=data.fixed("train"),
            dev=data.fixed("val"),
            labels_N=data.examples("val").labels,
            prompt=prompts.prompt("number_film", seed=seed).weight,
            classes=2,
            permutations=2,
            seed=2,
        )
        for seed in study.seeds()
    ]
    torch.testing.assert_close(study.predictivity("number_film"), (each[0] + each[1] + each[2]) / 3)


@pytest.mark.parametrize("p_values", [0, 3])
def test_the_null_of_prompts_that_agree_is_that_of_one(prompts, p_values, monkeypatch):
    """A permutation of its own for each would make the mean's null narrower than any of theirs."""
    monkeypatch.setattr(SkillNeurons, "tuned", lambda self, task: [start(prompts)] * self.trials)
    settings = dict(prompts=prompts, tasks=["number_film"], permutations=4, p_values=p_values)
    one, three = (SkillNeurons(trials=trials, **settings).predictivity("number_film") for trials in (1, 3))
    torch.testing.assert_close(one, three)


def test_one_neuron_as_the_classifier_by_storing_all(prompts):
    data = prompts.data("number_film")
    starts, (layer, unit) = [start(prompts, seed) for seed in (0, 1)], (1, 5)
    expected = []
    for prompt in starts:
        values = {split: stored(prompts, data, split, prompt)[:, layer, :, unit] for split in SPLITS}
        right = {s: (values[s] > values["train"].mean(0)) == data.examples(s).labels[:, None].bool() for s in SPLITS}
        shares = {s: r.float().mean(0) for s, r in right.items()}
        # Token and side are chosen on validation examples, whatever is best on the test.
        token = max(range(len(prompt)), key=lambda p, v=shares["val"]: abs(float(v[p]) - 0.5))
        share = float(shares["test"][token])
        expected.append(share if shares["val"][token] >= 0.5 else 1 - share)
    reads = [read(prompts.backbone, data, prompt, layer=layer, unit=unit) for prompt in starts]
    labels = {split: data.examples(split).labels for split in ("val", "test")}
    found = neuron_accuracy(reads, val_labels=labels["val"], test_labels=labels["test"])
    assert found == pytest.approx(sum(expected) / 2)


def test_words_go_with_a_neuron_by_the_texts_they_are_in(prompts):
    data, prompt, (layer, unit) = prompts.data("number_film"), start(prompts), (0, 3)
    values = stored(prompts, data, "test", prompt)[:, layer, :, unit]
    widest = values[:, values.var(0).argmax()]
    texts = data.task.texts["test"]
    test_NP, right = answered(prompts.backbone, data, prompt, layer=layer, unit=unit)
    assert right == accuracy(prompts.backbone, data, prompt)
    found = word_activation(test_NP, texts, least=5)
    for word in {w for text in texts for w in text.split()}:
        rows = [n for n, text in enumerate(texts) if word in text.split()]
        assert (word in found) == (len(rows) >= 5)
        if word in found:
            assert found[word] == pytest.approx(float(widest[rows].mean() - widest.mean()), abs=1e-6)
    assert len(found) > 5


def test_a_layers_top_share():
    pred = torch.tensor([[0.5, 0.9, 0.7, 0.6], [0.5, 0.5, 0.5, 0.6]])
    torch.testing.assert_close(top_by_layer(pred, share=0.5), torch.tensor([0.8, 0.55]))


def counts_of(activations_NLPF, labels, base):
    above = torch.stack([(activations_NLPF[labels == c] > base).sum(0) for c in range(2)])
    return sn.Counts(above[None].float(), torch.bincount(labels, minlength=2)[None])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_neuron_scores_one_and_shift_or_scale_change_nothing(sign):
    labels = torch.arange(40) % 2
    activations = torch.randn(40, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    activations[:, 1, 2, 4] = sign * labels
    pred = sn.predictivity_RLF(counts_of(activations, labels, activations.mean(0)))
    moved = activations * 3.5 + 2
    again = sn.predictivity_RLF(counts_of(moved, labels, moved.mean(0)))
    assert pred[0, 1, 4] == 1.0
    assert pred.flatten().sort().values[-2] < 1.0
    torch.testing.assert_close(pred, again)


def test_a_constant_neuron_scores_the_majority_or_half_when_balanced():
    labels = torch.tensor([0] * 30 + [1] * 10)
    activations = torch.zeros(40, 1, 1, 1)
    counts = counts_of(activations, labels, activations.mean(0))
    assert sn.predictivity_RLF(counts)[0, 0, 0] == 0.75
    assert sn.predictivity_RLF(counts, balanced=True)[0, 0, 0] == 0.5


def test_shuffled_labels_lie_inside_their_null(prompts):
    data, prompt = prompts.data("sentiment_film"), start(prompts)
    labels = data.examples("val").labels
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))]
    settings = dict(train=data.fixed("train"), dev=data.fixed("val"), prompt=prompt, classes=2, permutations=40)
    found = sn.find(prompts.backbone, labels_N=shuffled, **settings)
    best = found.flatten(1).amax(1)
    assert (best[1:] >= best[0]).float().mean() > 0.05


def test_the_null_permutes_the_labels():
    labels = torch.arange(60) % 3
    rows = sn.permuted_labels(labels, permutations=4, seed=0)
    assert torch.equal(rows[0], labels) and len({tuple(r.tolist()) for r in rows}) == 5
    assert all(torch.equal(row.bincount(), labels.bincount()) for row in rows)
    assert torch.equal(rows, sn.permuted_labels(labels, permutations=4, seed=0))


def test_selection_is_stable_and_random_masks_match_it_per_layer():
    pred = torch.tensor([[0.9, 0.9, 0.9, 0.5], [0.6, 0.7, 0.8, 0.9]])
    mask = sn.select(pred, share=0.5)
    assert mask.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert sn.tied_share(pred, mask) == 0.5
    everywhere = sn.select(pred, share=0.5, rank_within="model")
    assert everywhere.sum() == 4 and everywhere[0].tolist() == [True, True, True, False]
    # Both 0.9 of the first layer tie with the third; over all layers every 0.9 is in.
    assert sn.tied_share(pred, everywhere, rank_within="model") == 0.0
    assert sn.tied_share(pred, sn.select(pred, share=0.25, rank_within="model"), rank_within="model") == 1.0
    assert torch.equal(sn.random_like(mask, seed=3).sum(1), mask.sum(1))
    other = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.9, 0.9, 0.9, 0.1]])
    assert sn.select_like(other, everywhere).tolist() == [[False, True, True, True], [True, False, False, False]]
    assert torch.equal(sn.select_like(pred, mask), mask)


@pytest.mark.parametrize("rank_within", ["layer", "model"])
def test_arms_are_of_equal_counts_and_what_is_random_is_other_in_every_task_and_study(
    prompts, rank_within, monkeypatch
):
    tasks = ["sentiment_film", "number_film"]
    pred = {task: torch.rand(1, 2, 24, generator=torch.Generator().manual_seed(n)) for n, task in enumerate(tasks)}
    pred["number_film"][0, 1] += 1
    monkeypatch.setattr(Perturb, "predictivity", lambda self, task: pred[task])
    seeds = []
    monkeypatch.setattr(perturb, "Perturbation", lambda *, seed, **_: seeds.append(seed))
    monkeypatch.setattr(perturb, "accuracy", lambda *_, **__: 1.0)
    drawn = []
    moments = sn.Moments(torch.zeros(2, 24), torch.ones(2, 24))
    for seed in (1, 2):
        study = Perturb(prompts=prompts, tasks=tasks, trials=1, rank_within=rank_within, draws=3, seed=seed)
        for task in study.tasks:
            arms = study.masks(task, share=0.25)
            counts = {tuple(mask.sum(1).tolist()) for masks in arms.values() for mask in masks}
            assert len(counts) == 1, (task, counts)
            drawn += arms["random neurons"]
            own = len(seeds)
            for masks in arms.values():
                study.perturbed(prompts.backbone, task, None, masks, "gaussian", moments)
            # Arms share their noise, draw by draw.
            assert seeds[own] == seeds[own + 1] == seeds[own + 4] and len(set(seeds[own:])) == 3
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) == len(drawn) == 12
    assert len(set(seeds)) == 12


def test_no_noise_and_no_neurons_change_nothing_and_no_hook_stays(prompts):
    data, prompt = prompts.data("number_film"), start(prompts)
    batch = data.examples("test")[:10]
    backbone = prompts.backbone
    with torch.no_grad():
        plain = backbone.scores(batch, prompt)
        shape = (2, 24)
        all_of, none_of = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        for see in (
            Perturbation(mask_LF=all_of, alpha=0.0),
            *(Perturbation(mask_LF=none_of, kind=k, mean_LF=torch.ones(shape)) for k in ("gaussian", "zero", "mean")),
        ):
            with hooked(backbone.sites(), see):
                assert torch.equal(backbone.scores(batch, prompt), plain)
        with hooked(backbone.sites(), Perturbation(mask_LF=all_of, kind="zero")):
            assert not torch.allclose(backbone.scores(batch, prompt), plain)
        with (
            pytest.raises(RuntimeError, match="stop"),
            hooked(backbone.sites(), lambda i, x: (_ for _ in ()).throw(RuntimeError("stop"))),
        ):
            backbone.scores(batch, prompt)
        assert not any(site._forward_pre_hooks for site in backbone.sites())
        assert torch.equal(backbone.scores(batch, prompt), plain)


def test_noise_is_one_draw_per_example_shared_by_its_positions():
    mask = torch.tensor([[True, False]])
    x = torch.zeros(3, 4, 2)
    out = Perturbation(mask_LF=mask, seed=1)(0, x)
    assert (out[..., 1] == 0).all()
    assert (out[:, :1, 0] == out[..., 0]).all() and len(out[:, 0, 0].unique()) == 3
    assert torch.equal(out, Perturbation(mask_LF=mask, seed=1)(0, x))


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="gaussian"):
        Perturbation(mask_LF=torch.zeros(1, 1, dtype=torch.bool), kind="gausian")


def test_accuracy_counts_every_example_once(prompts, monkeypatch):
    data, prompt = prompts.data("topic_four"), start(prompts)
    batch = data.examples("test")[:]
    right = (prompts.backbone.scores(batch, prompt).argmax(1) == batch["labels"]).float().mean()
    data.eval_batch = 7
    # ALBERT has none that are its layers' own: where nothing is looked at nobody asks for them.
    monkeypatch.setattr(Backbone, "sites", None)
    assert accuracy(prompts.backbone, data, prompt) == pytest.approx(float(right))
    # As many as asked for, whatever goes into a forward.
    scores = prompts.backbone.scores(data.examples("test")[:10], prompt)
    ten = (scores.argmax(1) == batch["labels"][:10]).float().mean()
    for data.eval_batch in (7, 64):
        assert accuracy(prompts.backbone, data, prompt, examples=10) == pytest.approx(float(ten))
