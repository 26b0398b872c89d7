"""The objectives against an independent reference in float64, and what must hold of them."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.svco.losses import SCORES, TERMS, Objective
from tests.runtime.cli import PROJECT

NAMES = sorted(p.stem for p in (PROJECT / "conf/objective").glob("*.yaml"))
SWAP = {"w": "l", "l": "w", "n": "n"}


def objective(name, **changes):
    given = OmegaConf.to_container(OmegaConf.load(PROJECT / f"conf/objective/{name}.yaml"))
    given.pop("_target_")
    return Objective(**{**given, **changes})


def draw(seed, pairs=5):
    generator = torch.Generator().manual_seed(seed)
    return {s: -20 * torch.rand(pairs, dtype=torch.float64, generator=generator) for s in SCORES}


TOKENS = {"w": torch.tensor([3.0, 7, 2, 5, 9]).double(), "l": torch.tensor([4.0, 7, 1, 6, 2]).double()}


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def by_hand(name, scores, reference, normalise):
    """The formulas of each paper, written out; numpy, no shared code."""
    length = {s: TOKENS[s[1]].numpy() if normalise else 1.0 for s in SCORES}
    r = {s: (scores[s].numpy() - (reference[s].numpy() if reference else 0)) / length[s] for s in SCORES}
    nll = {s: -scores[s].numpy() / TOKENS[s[1]].numpy() for s in SCORES}
    loss = {
        "svco": lambda: (
            softplus(-0.1 * (r["ww"] - r["nw"]))
            + softplus(-0.1 * (r["nw"] - r["lw"]))
            + softplus(-0.1 * (r["ll"] - r["nl"]))
            + softplus(-0.1 * (r["nl"] - r["wl"]))
        ),
        "vco": lambda: softplus(-0.1 * (r["ww"] - r["nw"])) + softplus(-0.1 * (r["nw"] - r["lw"])),
        "attend_only": lambda: softplus(-0.1 * (r["ww"] - r["nw"])) + softplus(-0.1 * (r["ll"] - r["nl"])),
        "reject_only": lambda: softplus(-0.1 * (r["nw"] - r["lw"])) + softplus(-0.1 * (r["nl"] - r["wl"])),
        "dpo": lambda: softplus(-0.1 * (r["ww"] - r["wl"])),
        "dpo_both": lambda: softplus(-0.1 * (r["ww"] - r["wl"])) + softplus(-0.1 * (r["ll"] - r["lw"])),
        "image_dpo": lambda: softplus(-0.1 * (r["ww"] - r["lw"])),
        "image_dpo_both": lambda: softplus(-0.1 * (r["ww"] - r["lw"])) + softplus(-0.1 * (r["ll"] - r["wl"])),
        "mdpo": lambda: (
            softplus(-0.1 * (r["ww"] - r["wl"])) + softplus(-0.1 * (r["ww"] - r["lw"])) + softplus(-0.1 * r["ww"])
        ),
        "sft": lambda: nll["ww"],
        "sft_both": lambda: (nll["ww"] + nll["ll"]) / 2,
        "svco_sft": lambda: by_hand("svco", scores, reference, normalise) + (nll["ww"] + nll["ll"]) / 2,
    }
    return loss[name]().mean()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("reference", ["cached", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_equals_the_formula_in_float64(name, reference, normalise):
    for seed in range(3):
        scores, base = draw(seed), draw(seed + 100)
        loss = objective(name, reference=reference, normalise=normalise)
        found = loss(scores=scores, tokens=TOKENS, reference=base)
        expected = by_hand(name, scores, base if loss.reference != "none" else None, normalise)
        assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("sft")])
def test_every_term_is_log_2_where_policy_is_reference(name):
    scores = draw(1)
    for term, value in objective(name).terms(scores=scores, tokens=TOKENS, reference=scores).items():
        if not term.startswith("nll"):
            assert torch.allclose(value, torch.full_like(value, math.log(2)), atol=1e-15)


@pytest.mark.parametrize(
    ("name", "same"),
    [("svco", True), ("attend_only", True), ("reject_only", True), ("dpo_both", True), ("image_dpo_both", True)]
    + [("sft_both", True), ("svco_sft", True), ("vco", False), ("dpo", False), ("image_dpo", False), ("mdpo", False)]
    + [("sft", False)],
)
def test_swapping_the_sides_leaves_the_symmetric_loss_and_only_it(name, same):
    def swapped(scores):
        return {s: scores[SWAP[s[0]] + SWAP[s[1]]] for s in SCORES}

    scores, base = draw(2), draw(3)
    loss = objective(name)
    one = loss(scores=scores, tokens=TOKENS, reference=base)
    other = loss(scores=swapped(scores), tokens={"w": TOKENS["l"], "l": TOKENS["w"]}, reference=swapped(base))
    assert (abs(float(one - other)) < 1e-12) == same


@pytest.mark.parametrize("term", TERMS)
def test_a_term_raises_its_better_score_and_lowers_its_worse_one_and_reads_no_other(term):
    scores = {s: v.requires_grad_() for s, v in draw(4).items()}
    loss = Objective(betas={term: 0.3})
    loss(scores=scores, tokens=TOKENS, reference=draw(5)).backward()
    better, worse = TERMS[term]
    assert (scores[better].grad < 0).all()
    assert (scores[worse].grad > 0).all()
    assert all(scores[s].grad is None for s in SCORES if s not in (better, worse))
    assert set(loss.needs) == {better, worse}


def test_an_image_shown_twice_has_no_reject_margin():
    # The same image on both sides: the scores of both are one, and attend and reject can only trade off.
    scores = draw(6)
    scores["lw"], scores["wl"] = scores["ww"], scores["ll"]
    base = {s: torch.zeros(5, dtype=torch.float64) for s in SCORES}
    terms = objective("image_dpo_both").terms(scores=scores, tokens=TOKENS, reference=base)
    assert torch.allclose(terms["image"], torch.full((5,), math.log(2)).double())
    both = objective("svco").terms(scores=scores, tokens=TOKENS, reference=base)
    assert torch.allclose(both["attend"] - both["reject"], 0.1 * (scores["nw"] - scores["ww"]))


def test_beta_0_switches_a_term_off_and_no_term_at_all_is_an_error():
    assert set(Objective(betas={"attend": 0.1, "reject": 0.0}).betas) == {"attend"}
    with pytest.raises(ValueError, match=r"has no term.*objective.betas"):
        Objective(betas={"attend": 0.0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"betas": {"atend": 0.1}}, "'atend'.*the nearest is attend"),
        ({"nll": {"xw": 1.0}}, "'xw'.*expected one of ww"),
        ({"betas": {"attend": 0.1}, "reference": "cache"}, "'cache'.*the nearest is cached"),
    ],
)
def test_a_wrong_word_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        Objective(**changes)


def test_batch_order_changes_nothing():
    scores, base = draw(7), draw(8)
    order = torch.tensor([3, 1, 4, 0, 2])
    loss = objective("svco_sft")
    moved = loss(
        scores={s: v[order] for s, v in scores.items()},
        tokens={s: v[order] for s, v in TOKENS.items()},
        reference={s: v[order] for s, v in base.items()},
    )
    assert float(moved) == pytest.approx(float(loss(scores=scores, tokens=TOKENS, reference=base)), abs=1e-12)
