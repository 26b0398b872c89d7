"""Scorers against scenes checked by hand."""

import math

import numpy as np
import pytest

from datamodules.scenes.world import Scene
from lightning_modules.svco import grounding
from lightning_modules.svco.figures import marked

ONE = Scene("meadow", "circle", "red", "small", "plain", 2, "left", "ring")
TWO = Scene("night", "star", "blue", "large", "striped", 1, "right", "heart")


def test_chair_by_hand():
    captions = [
        "two small red circles and a ring .",  # both right
        "one star and a cross , and a star again .",  # star right, cross wrong, star counted once
    ]
    assert grounding.chair(captions=captions, scenes=[ONE, TWO]) == {"object": 1 / 4, "sentence": 0.5, "recall": 3 / 4}
    silent = grounding.chair(captions=["nothing here .", "a bar ."], scenes=[ONE, TWO])
    assert silent == {"object": 1.0, "sentence": 0.5, "recall": 0.0}
    # Of no object at all no share is known: to say nothing is not to see everything rightly.
    nothing = grounding.chair(captions=["nothing here .", ""], scenes=[ONE, TWO])
    assert math.isnan(nothing["object"]) and nothing["sentence"] == nothing["recall"] == 0.0


def test_captions_are_read_as_real_models_write_them():
    captions = [
        "The image shows a Meadow with two small, plain red Circles on the left, and a ring.",
        "A large, striped blue star (single) on the right; at night.\nBehind it: a cross.",
    ]
    assert grounding.chair(captions=captions, scenes=[ONE, TWO]) == {"object": 1 / 4, "sentence": 0.5, "recall": 3 / 4}
    right = grounding.caption_accuracy(captions=captions, scenes=[ONE, TWO])
    assert right == {**dict.fromkeys(right, 1.0), "count": 0.5, "other": 0.5}
    assert marked(captions[1], TWO) == captions[1].replace("cross", "CROSS")


def test_caption_accuracy_by_hand():
    captions = ["a meadow with two small plain red circles on the left , and a ring .", "a night with two stars ."]
    found = grounding.caption_accuracy(captions=captions, scenes=[ONE, TWO])
    assert found == dict(place=1.0, shape=1.0, colour=0.5, size=0.5, material=0.5, count=0.5, side=0.5, other=0.5)


def test_pope_by_hand():
    kinds = ["present", "random", "adversarial", "present", "random", "present", "random", "adversarial"]
    says = [True, False, True, True, True, False, False, True]
    found = grounding.pope(kinds=kinds, says_yes=says)
    assert found["random"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found["adversarial"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["yes"] == 5 / 8


def test_pope_asks_what_is_there_what_is_not_and_what_usually_would_be():
    draw = np.random.default_rng(0)
    for _ in range(30):
        asked = grounding.pope_questions(scene=TWO, draw=draw)
        assert asked["present"] in ("star", "heart")
        assert asked["random"] not in ("star", "heart")
        # At night the prior expects a triangle and a bar.
        assert asked["adversarial"] in ("triangle", "bar")
    usual = Scene("meadow", "circle", "red", "small", "plain", 1, "left", "ring")
    assert "adversarial" not in grounding.pope_questions(scene=usual, draw=draw)


def test_a_pair_counts_only_when_both_are_right():
    found = grounding.paired(
        right_w=[True, True, False, True], right_l=[True, False, True, True], categories=["a", "a", "b", "b"]
    )
    assert found == {"all": 0.5, "a": 0.5, "b": 0.5}


def test_pairs_without_a_category_are_not_all_pairs():
    """They are called `all`, too, and the number of every study is `all`."""
    right = [True, False, False, False]
    assert grounding.paired(right_w=right, right_l=right, categories=["all", "a", "a", "a"]) == {"all": 0.25, "a": 0.0}


def test_dependency_is_what_is_lost_without_the_image():
    found = grounding.dependency(with_image={"a": 0.9, "b": 0.5}, without={"a": 0.3, "b": 0.6})
    assert found == pytest.approx({"a": 0.6, "b": -0.1})
    assert grounding.correlation([1, 2, 3, 4], [2, 4, 6, 9])["rho"] == pytest.approx(1.0)
