"""Scorers of what a model says about scenes, against exact ground truth: pure functions of texts and scores.

CHAIR counts the objects a caption names that are not there (Rohrbach et al., 2018); POPE asks for objects that are there,
are not, and are not though they usually would be (Li et al., 2023); a pair counts only when both images are right (MMVP).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.scenes.language import mentioned, read_back
from datamodules.scenes.world import OBJECTS, VALUES, Scene, usual

# What an answer is scored under: its own picture, none, one that it contradicts.
CONDITIONS = {"matching": ("ww", "ll"), "no image": ("nw", "nl"), "contradictory": ("lw", "wl")}
# Of one picture the other answer stands for the contradiction.
CONDITIONS_OF_ONE = {"matching": ("ww",), "no image": ("nw",), "contradictory": ("wl",)}
POPE_KINDS = ("present", "random", "adversarial")


def chair(*, captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares: of named objects that are not there; of sentences with one; of true objects that are named.

    Objects are counted once a caption; captions that name none are counted by `recall` alone, and where none names one no
    share of them is known: the first is nan.
    """
    named = [mentioned(text) for text in captions]
    wrong = [names - scene.objects for names, scene in zip(named, scenes, strict=True)]
    right = [names & scene.objects for names, scene in zip(named, scenes, strict=True)]
    total = sum(map(len, named))
    return {
        "object": sum(map(len, wrong)) / total if total else float("nan"),
        "sentence": float(np.mean([bool(w) for w in wrong])),
        "recall": sum(map(len, right)) / sum(len(scene.objects) for scene in scenes),
    }


def caption_accuracy(*, captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of captions that state each attribute rightly; one that is left out is wrong."""
    stated = [read_back(text) for text in captions]
    return {
        name: float(np.mean([s.get(name) == getattr(scene, name) for s, scene in zip(stated, scenes, strict=True)]))
        for name in VALUES
    }


def pope_questions(*, scene: Scene, draw: np.random.Generator) -> dict[str, str]:
    """Kind -> an object to ask about. `adversarial` is what the prior expects at this place, where it is not there."""
    absent = [noun for noun in OBJECTS if noun not in scene.objects]
    expected = [noun for noun in (usual("shape", scene.place), usual("other", scene.place)) if noun in absent]
    present = sorted(scene.objects)
    found = {"present": present[draw.integers(len(present))], "random": absent[draw.integers(len(absent))]}
    return found | ({"adversarial": expected[draw.integers(len(expected))]} if expected else {})


def pope(*, kinds: Sequence[str], says_yes: Sequence[bool]) -> dict[str, float]:
    """Accuracy with random and with adversarial negatives (half positives each), and the share of yes.

    Accuracy is the mean of that on positives and that on negatives, so unequal numbers do not tilt it.
    """
    rate = {
        kind: float(np.mean([float(yes) for k, yes in zip(kinds, says_yes, strict=True) if k == kind] or [np.nan]))
        for kind in POPE_KINDS
    }
    return {
        "random": (rate["present"] + 1 - rate["random"]) / 2,
        "adversarial": (rate["present"] + 1 - rate["adversarial"]) / 2,
        "yes": float(np.mean(says_yes)),
    }


def says_no(answer: str) -> bool:
    """As POPE's own script reads an answer: its first sentence has the word no or not; all else is a yes."""
    return not {"no", "No", "not"}.isdisjoint(answer.split(".")[0].replace(",", "").split())


def yes_no(*, says_yes: Sequence[bool], is_yes: Sequence[bool]) -> dict[str, float]:
    """POPE's numbers, of yes as what is looked for; precision is 0 where nothing is said to be there."""
    said, true = np.asarray(says_yes, dtype=bool), np.asarray(is_yes, dtype=bool)
    right = float((said & true).sum())
    precision, recall = right / max(1, said.sum()), right / max(1, true.sum())
    return {
        "accuracy": float((said == true).mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if right else 0.0,
        "yes": float(said.mean()),
    }


def by_condition(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Log-probabilities of all answers by what they are scored under (`losses.SCORES`)."""
    conditions = CONDITIONS if "ll" in scores else CONDITIONS_OF_ONE
    return {label: torch.cat([scores[name] for name in names]) for label, names in conditions.items()}


def paired(*, right_w: Sequence[bool], right_l: Sequence[bool], categories: Sequence[str]) -> dict[str, float]:
    """`all` and each category: share of pairs of which both images are answered rightly.

    `all` is of all pairs, also where some of them have no category, which is called `all` too.
    """
    both = np.asarray(right_w, dtype=bool) & np.asarray(right_l, dtype=bool)
    groups = np.asarray(categories)
    by_category = {str(c): float(both[groups == c].mean()) for c in dict.fromkeys(categories) if c != "all"}
    return {"all": float(both.mean())} | by_category


def dependency(*, with_image: dict[str, float], without: dict[str, float]) -> dict[str, float]:
    """Visual dependency of each benchmark: how much the score drops without the image."""
    return {name: score - without[name] for name, score in with_image.items()}


def correlation(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Spearman's rank correlation with its two-sided p."""
    from scipy import stats

    found = stats.spearmanr(x, y)
    return {"rho": float(found.statistic), "p": float(found.pvalue), "n": len(x)}
