"""What single neurons say: one as a classifier, the words it rises with, and where the top ones lie.

Shape legend: N examples, L layers, P prompt tokens, F neurons of a layer, C classes.
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common.bounds import Count
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import activations_NKP, each_layer, hooked


def neuron_name(layer: int, unit: int) -> str:
    """`L1.N97`: as a number, 1.97 and 1.970 would be one neuron."""
    return f"L{layer}.N{unit}"


class Read(NamedTuple):
    """One neuron under one prompt: its means over the training texts at each token, whether it lies above them on
    validation examples, and its activations on test examples.
    """

    baseline_P: Tensor
    val_NP: Tensor
    test_NP: Tensor


@torch.no_grad()
def answered(
    backbone: Backbone, data: TaskDataModule, prompt: Tensor, *, layer: int, unit: int
) -> tuple[Tensor, float]:
    """The neuron's activations on the test examples, float32 [N, P], and the share of these answered right.

    In one pass, but for label words of several tokens: they are read in forwards of their own, with more in the text.
    """
    values: list[Tensor] = []
    right, seen = torch.zeros((), dtype=torch.long, device=backbone.device), 0
    for batch in backbone.batches(data.fixed("test")):

        def see(i: int, x_BTF: Tensor, batch: Batch = batch) -> None:
            if i == layer:
                values.append(backbone.read(x_BTF, batch, len(prompt))[..., unit].float().cpu())

        several = "label_words" in batch
        if several:
            each_layer(backbone, batch, prompt, see)
        with contextlib.nullcontext() if several else hooked(backbone.sites(), see):
            scores_BC = backbone.scores(batch, prompt)
        right += (scores_BC.argmax(1) == batch["labels"]).sum()
        seen += len(scores_BC)
    return torch.cat(values), int(right) / seen


def read(
    backbone: Backbone,
    data: TaskDataModule,
    prompt: Tensor,
    *,
    layer: int,
    unit: int,
    baseline_LPF: Tensor | None = None,
    val_NP: Tensor | None = None,
    test_NP: Tensor | None = None,
) -> Read:
    """With a pass for each part that is not given."""
    if baseline_LPF is None:
        baseline_LPF = sn.baseline_LPF(backbone, data.fixed("train"), prompt)
    base_P = baseline_LPF[layer, :, unit].cpu()
    if val_NP is None:
        val_NP = activations_NKP(backbone, data.fixed("val"), prompt, [(layer, unit)])[:, 0] > base_P
    if test_NP is None:
        test_NP = activations_NKP(backbone, data.fixed("test"), prompt, [(layer, unit)])[:, 0]
    return Read(base_P, val_NP, test_NP)


def neuron_accuracy(reads: Sequence[Read], *, val_labels: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of one neuron as the classifier, mean over prompts: baseline on train, token and side on validation.

    Only for two classes.
    """
    found = []
    for one in reads:
        val_P, test_P = (
            (above.cpu() == labels[:, None].bool()).float().mean(0)
            for above, labels in ((one.val_NP, val_labels), (one.test_NP > one.baseline_P, test_labels))
        )
        token = (val_P - 0.5).abs().argmax()
        found.append(float(test_P[token] if val_P[token] >= 0.5 else 1 - test_P[token]))
    return sum(found) / len(found)


def word_activation(test_NP: Tensor, texts: Sequence[str], *, least: Count = 8) -> dict[str, float]:
    """Word -> how far above its mean the neuron's strongest prompt token is, on average, in `texts` with that word.

    The strongest is the one that varies most. Words of fewer than `least` texts are left out.
    """
    widest = test_NP.var(0).argmax()
    centred = (test_NP[:, widest] - test_NP[:, widest].mean()).tolist()
    of_word: dict[str, list[float]] = {}
    for text, value in zip(texts, centred, strict=True):
        for word in dict.fromkeys(text.lower().split()):
            of_word.setdefault(word, []).append(value)
    return {word: sum(found) / len(found) for word, found in of_word.items() if len(found) >= least}


def top_by_layer(pred_LF: Tensor, *, share: float) -> Tensor:
    """Mean predictivity of each layer's top share, [L]."""
    count = max(1, round(share * pred_LF.shape[1]))
    return pred_LF.topk(count, dim=1).values.mean(1)
