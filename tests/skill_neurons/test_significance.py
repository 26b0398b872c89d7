"""p-values of neurons: at noise they hold their level, where the pooled null did not, and a planted neuron is found."""

import pytest
import torch

from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.significance import Signs, _packed, of_labellings, predictivity_of, signs
from lightning_modules.skill_neurons.studies import SkillNeurons
from tests.prompt import toy
from tests.skill_neurons.test_predictivity import start

LAYERS, TOKENS, WIDTH, EXAMPLES = 2, 3, 13, 40


def drawn(draw, *, uneven=False, examples=EXAMPLES):
    """Signs that know nothing of any label. uneven: from neurons that hardly ever fire to such that fire half the time."""
    rate_F = torch.linspace(0.02, 0.5, WIDTH) if uneven else torch.full((WIDTH,), 0.5)
    bits = torch.rand(examples, LAYERS, TOKENS, WIDTH, generator=draw) < rate_F
    return bits, Signs(torch.stack([_packed(bits[:, layer]) for layer in range(LAYERS)]), WIDTH)


def test_packed_signs_are_those_that_went_in():
    bits, found = drawn(torch.Generator().manual_seed(0))
    for layer in range(LAYERS):
        for token in range(TOKENS):
            assert torch.equal(found.of(layer, token).bool(), bits[:, layer, token])
        for unit in range(WIDTH):
            assert torch.equal(found.of_neuron(layer, unit), bits[:, layer, :, unit])


@pytest.mark.parametrize("task", ["sentiment_film", "topic_four"])
@pytest.mark.parametrize("balanced", [False, True])
def test_predictivity_is_the_finders(tmp_path, task, balanced):
    prompts = toy.prompts(tmp_path)
    data, prompt = prompts.data(task), start(prompts)
    labels, classes = data.examples("val").labels, len(data.task.classes)
    about = dict(classes=classes, balanced=balanced)
    expected = sn.find(
        prompts.backbone, train=data.fixed("train"), dev=data.fixed("val"), labels_N=labels, prompt=prompt,
        permutations=3, seed=5, **about,
    )  # fmt: skip
    base = sn.baseline_LPF(prompts.backbone, data.fixed("train"), prompt)
    found = signs(prompts.backbone, data.fixed("val"), prompt, baseline_LPF=base)
    rows = sn.permuted_labels(labels, permutations=3, seed=5)
    torch.testing.assert_close(predictivity_of(found, rows, **about), expected, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_labels_that_are_noise_are_significant_at_their_level():
    """400 data sets: a neuron's own p <= .05 in at most 5% of them, the family-wise one in at most 5% of data sets."""
    draw = torch.Generator().manual_seed(1)
    own, family = [], []
    for n in range(400):
        _, found = drawn(draw, uneven=True, examples=301)
        labels = torch.randint(2, (301,), generator=draw)
        p = of_labellings([found], labels, classes=2, permutations=59, seed=n)
        own.append((p.own_LF <= 0.05).float().mean().item())
        family.append(bool((p.family_LF <= 0.05).any()))
    # Two standard errors of 400 draws are 2.2%; ties count as reached, which makes both a little smaller.
    assert 0.02 < sum(own) / len(own) <= 0.052
    assert 0.025 < sum(family) / len(family) < 0.075


def test_trials_that_agree_are_no_more_significant_than_one():
    """The trials share their examples: three copies of one trial have the p-values of one."""
    draw = torch.Generator().manual_seed(2)
    _, found = drawn(draw)
    labels = torch.randint(2, (EXAMPLES,), generator=draw)
    about = dict(classes=2, permutations=99, seed=0)
    once, thrice = (of_labellings([found] * n, labels, **about) for n in (1, 3))
    assert torch.equal(once.own_LF, thrice.own_LF) and torch.equal(once.family_LF, thrice.family_LF)


def test_a_planted_neuron_alone_survives_the_correction():
    bits, _ = drawn(torch.Generator().manual_seed(3))
    labels = torch.arange(EXAMPLES) % 2
    bits[:, 1, 2, 7] = labels.bool()
    found = Signs(torch.stack([_packed(bits[:, layer]) for layer in range(LAYERS)]), WIDTH)
    p = of_labellings([found], labels, classes=2, permutations=199, seed=0)
    assert (p.family_LF <= 0.05).nonzero().tolist() == [[1, 7]]
    assert p.own_LF[1, 7] == p.family_LF[1, 7] == 1 / 200
    assert p.counts() == {
        "neurons": LAYERS * WIDTH,
        "own null p<=.01": int((p.own_LF <= 0.01).sum()),
        "family-wise p<=.05": 1,
    }


def test_a_study_without_p_values_and_with(tmp_path):
    prompts = toy.prompts(tmp_path)
    study = SkillNeurons(prompts=prompts, tasks=["sentiment_film"], trials=2, permutations=2, p_values=19)
    found = study.significance("sentiment_film")
    assert found.own_LF.shape == (2, 24) and found.own_LF.min() >= 1 / 20
    assert (found.family_LF >= found.own_LF).all()
