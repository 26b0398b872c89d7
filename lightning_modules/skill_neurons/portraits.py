"""Single neurons under one prompt, as tables: what they say of each class, which texts and words drive them.

Shape legend: N examples, P prompt tokens, K neurons looked at, L layers, F neurons of a layer, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import norm, rankdata
from torch import Tensor

from lightning_modules.skill_neurons.hooks import Neurons
from lightning_modules.skill_neurons.predictivity import Counts, predictivity_RLF
from lightning_modules.skill_neurons.significance import Significance
from lightning_modules.skill_neurons.single_neurons import neuron_name

# Chance of a false neuron or word on a whole page.
LEVEL = 0.05
BINS, EXAMPLES, WORDS = 24, 4, 6
# Words of fewer texts say little of a word; characters of a text that are shown.
LEAST, CLIP = 8, 300


class Readings(NamedTuple):
    """What K neurons say: on validation examples, by which the prompt token is chosen, and on test examples.

    val_NKP, test_NKP: activations. baseline_KP: their means over the training texts.
    """

    val_NKP: Tensor
    test_NKP: Tensor
    baseline_KP: Tensor


class Labelled(NamedTuple):
    """A task's examples. texts: of the test split, in its order."""

    classes: Sequence[str]
    val_labels: Tensor
    test_labels: Tensor
    texts: Sequence[str]


def top_neurons(pred_LF: Tensor, found: Significance | None, *, most: int) -> list[dict[str, Any]]:
    """The `most` most predictive, ties to the lower number; p-values None where none were asked for."""
    width = pred_LF.shape[1]
    order = pred_LF.flatten().argsort(descending=True, stable=True)[:most].tolist()
    rows = []
    for rank, place in enumerate(order):
        layer, unit = divmod(place, width)
        rows.append(
            {
                "neuron": neuron_name(layer, unit),
                "layer": layer,
                "unit": unit,
                "rank": rank + 1,
                "predictivity": float(pred_LF[layer, unit]),
                "own": float(found.own_LF[layer, unit]) if found else None,
                "family": float(found.family_LF[layer, unit]) if found else None,
            }
        )
    return rows


def elsewhere(preds: Mapping[str, Tensor], neurons: Neurons) -> dict[str, list[list[Any]]]:
    """Of each neuron in every task: `predictivity` and `rank` (1 is the task's best), both [K][tasks]."""
    found: dict[str, list[list[Any]]] = {"predictivity": [[] for _ in neurons], "rank": [[] for _ in neurons]}
    for pred_LF in preds.values():
        for k, (layer, unit) in enumerate(neurons):
            value = pred_LF[layer, unit]
            found["predictivity"][k].append(round(float(value), 4))
            found["rank"][k].append(1 + int((pred_LF > value).sum()))
    return found


def best_token_K(read: Readings, labels_N: Tensor, *, classes: int, balanced: bool = False) -> Tensor:
    """The prompt token at which each neuron tells the validation examples' classes apart best (equation 5)."""
    bits_NKP = (read.val_NKP > read.baseline_KP).float()
    one_hot_NC = torch.nn.functional.one_hot(labels_N, classes).float()
    above_CKP = torch.einsum("nc,nkp->ckp", one_hot_NC, bits_NKP)
    # A neuron in the place of a layer, a token in that of a neuron: one prompt token each.
    counts = Counts(above_CKP[None, :, :, None], one_hot_NC.sum(0)[None])
    return predictivity_RLF(counts, balanced=balanced)[0].argmax(1)


def portraits(
    read: Readings, data: Labelled, *, tasks: int, balanced: bool = False, text: bool
) -> list[dict[str, Any]]:
    """Of every neuron, at its best prompt token: activations of the test texts by class, and what drives it.

    test: its accuracy as the classifier, token and side chosen on validation; None for more than two classes. tasks: that
    share the page, for the words' chance. text: whether words of the data may be there.
    """
    classes, labels = len(data.classes), data.test_labels
    token_K = best_token_K(read, data.val_labels, classes=classes, balanced=balanced)
    values_NK = torch.stack([read.test_NKP[:, k, p] for k, p in enumerate(token_K.tolist())], 1)
    words = Words(data.texts) if text else None
    rows = []
    for k, token in enumerate(token_K.tolist()):
        value_N, base = values_NK[:, k], float(read.baseline_KP[k, token])
        right = None
        if classes == 2:
            val = ((read.val_NKP[:, k, token] > base).long() == data.val_labels).float().mean()
            test = float(((value_N > base).long() == labels).float().mean())
            right = test if val >= 0.5 else 1 - test
        rows.append(
            {
                "token": token,
                "baseline": short(base),
                "test": right,
                **histogram(value_N, labels, classes=classes),
                **(examples(value_N, data) if text else {}),
                **(words.driving(value_N, tests=len(token_K) * tasks) if words else {}),
            }
        )
    return rows


def histogram(value_N: Tensor, labels_N: Tensor, *, classes: int) -> dict[str, Any]:
    """edges [BINS + 1] and counts [C][BINS]; the highest value is in the last bin."""
    low, high = float(value_N.min()), float(value_N.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = [np.histogram(value_N[labels_N == c].double().numpy(), edges)[0].tolist() for c in range(classes)]
    return {"edges": [short(e) for e in edges], "counts": counts}


def examples(value_N: Tensor, data: Labelled) -> dict[str, list[dict[str, Any]]]:
    """The texts that drive a neuron `highest` and `lowest`, first the furthest out."""

    def shown(n: int) -> dict[str, Any]:
        text = data.texts[n]
        return {
            "text": text if len(text) <= CLIP else f"{text[:CLIP]}…",
            "class": int(data.test_labels[n]),
            "value": short(float(value_N[n])),
        }

    order = value_N.argsort(stable=True).tolist()
    most = min(EXAMPLES, len(order) // 2)
    return {"highest": [shown(n) for n in order[::-1][:most]], "lowest": [shown(n) for n in order[:most]]}


class Words:
    """Words of at least `LEAST` texts, and the texts that hold each."""

    def __init__(self, texts: Sequence[str]) -> None:
        holding: dict[str, list[int]] = {}
        for n, text in enumerate(texts):
            for word in dict.fromkeys(text.lower().split()):
                holding.setdefault(word, []).append(n)
        # A word of all texts has nothing to stand apart from.
        kept = {word: found for word, found in holding.items() if LEAST <= len(found) < len(texts)}
        self.words, self.texts = list(kept), len(texts)
        self.count_W = np.array([len(found) for found in kept.values()], dtype=float)
        self._text = np.array([n for found in kept.values() for n in found], dtype=int)
        self._word = np.repeat(np.arange(len(kept)), self.count_W.astype(int))

    def mean_W(self, value_N: np.ndarray) -> np.ndarray:
        return np.bincount(self._word, value_N[self._text], len(self.words)) / self.count_W

    def driving(self, value_N: Tensor, *, tests: int) -> dict[str, list[dict[str, Any]]]:
        """`drive_up`, `drive_down`: words whose texts lie higher or lower than chance gives, surest first.

        By the sum of ranks of a word's texts (Wilcoxon 1945), normal with the spread that drawing as many texts without
        return has, ties included; times words x `tests` (Bonferroni).
        """
        if not self.words:
            return {"drive_up": [], "drive_down": []}
        values = value_N.double().numpy()
        ranks = rankdata(values)
        spread_W = np.sqrt(ranks.var(ddof=1) * (1 - self.count_W / self.texts) / self.count_W)
        z_W = (self.mean_W(ranks) - ranks.mean()) / np.maximum(spread_W, 1e-12)
        chance_W = np.minimum(1, 2 * norm.sf(np.abs(z_W)) * len(self.words) * tests)
        above_W = self.mean_W(values) - values.mean()

        def side(sign: int) -> list[dict[str, Any]]:
            order = [w for w in np.argsort(chance_W, kind="stable") if chance_W[w] <= LEVEL and sign * z_W[w] > 0]
            return [
                {
                    "word": self.words[w],
                    "texts": int(self.count_W[w]),
                    "above": short(above_W[w]),
                    "chance": float(chance_W[w]),
                }
                for w in order[:WORDS]
            ]

        return {"drive_up": side(1), "drive_down": side(-1)}


def short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")
