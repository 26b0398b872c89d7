"""Scenes: deterministic pixels, contrasts in one attribute, texts that can be read back."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from datamodules.scenes import language
from datamodules.scenes.pairs import scene_pairs, scenes
from datamodules.scenes.render import render
from datamodules.scenes.world import CATEGORIES, VALUES, Scene, contrast, counterfactual, draw_scene, usual
from tests.runtime.cli import PROJECT

DIGEST = """
import hashlib
from datamodules.scenes.pairs import scenes
from datamodules.scenes.render import render
print(hashlib.sha256(b"".join(render(s).tobytes() for s in scenes(count=30, seed=5, stream="unbiased"))).hexdigest())
"""


def test_the_renderer_gives_the_same_bytes_in_another_process():
    here = b"".join(render(s).tobytes() for s in scenes(count=30, seed=5, stream="unbiased"))
    done = subprocess.run([sys.executable, "-c", DIGEST], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(here).hexdigest()


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_contrast_differs_in_exactly_the_named_attribute_and_in_pixels(category):
    draw = np.random.default_rng(1)
    for _ in range(50):
        one = draw_scene(draw, prior=0.5)
        other = contrast(one, category=category, draw=draw)
        assert [n for n in one.__dict__ if getattr(one, n) != getattr(other, n)] == [CATEGORIES[category]]
        assert render(one).tobytes() != render(other).tobytes()


def test_every_attribute_shows_in_the_pixels():
    base = Scene("meadow", "circle", "red", "small", "plain", 2, "left", "ring", seed=3)
    seen = {render(base).tobytes()}
    for name, values in VALUES.items():
        others = [Scene(**{**base.__dict__, name: value}) for value in values if value != getattr(base, name)]
        new = {render(scene).tobytes() for scene in others}
        assert len(new) == len(others)
        assert not new & seen
        seen |= new


def test_the_prior_holds_at_its_strength_and_not_at_all_at_none():
    biased = scenes(count=2000, seed=0, stream="biased")
    share = np.mean([s.colour == usual("colour", s.shape) for s in biased])
    assert share == pytest.approx(0.97 + 0.03 / 4, abs=0.015)
    unbiased = scenes(count=2000, seed=0, stream="unbiased")
    assert np.mean([s.colour == usual("colour", s.shape) for s in unbiased]) == pytest.approx(0.25, abs=0.04)


def test_a_counterfactual_breaks_the_prior_in_one_attribute():
    draw = np.random.default_rng(2)
    for _ in range(50):
        scene, category = counterfactual(draw)
        shape = usual("shape", scene.place)
        broken = [a for a in ("colour", "size", "material", "count", "side") if getattr(scene, a) != usual(a, shape)]
        broken += ["shape"] if scene.shape != shape else []
        assert broken == [CATEGORIES[category]]


def test_every_caption_states_the_whole_scene():
    for scene in scenes(count=100, seed=1, stream="unbiased"):
        for phrasing in range(3):
            text = language.caption(scene, phrasing=phrasing)
            assert language.read_back(text) == {name: getattr(scene, name) for name in VALUES}
            assert language.mentioned(text) == scene.objects


def test_the_vocabulary_holds_every_word():
    words = set(language.vocabulary())
    for pair in scene_pairs(count=300, seed=0, split="train", prior=0.2, describe=0.5):
        assert set(f"{pair.instruction} {pair.chosen} {pair.rejected}".split()) <= words


def test_yes_and_no_are_true_and_balanced():
    draw = np.random.default_rng(4)
    answers = []
    for scene in scenes(count=400, seed=2, stream="unbiased"):
        question, answer = language.ask_about(scene, draw)
        if answer in ("yes .", "no ."):
            answers.append(answer)
            assert (language.mentioned(question) <= scene.objects) == (answer == "yes .")
    assert np.mean([a == "yes ." for a in answers]) == pytest.approx(0.5, abs=0.12)


def test_pairs_are_a_function_of_the_seed_and_splits_never_meet():
    settings = dict(count=60, prior=0.3, describe=0.5)
    train = scene_pairs(seed=3, split="train", **settings)
    assert train == scene_pairs(seed=3, split="train", **settings)
    assert not set(train) & set(scene_pairs(seed=3, split="val", **settings))
    assert all(p.chosen != p.rejected for p in train)
    assert {p.category for p in train} == set(CATEGORIES)
