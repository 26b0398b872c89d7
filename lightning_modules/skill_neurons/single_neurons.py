"""What single neurons say: one as a classifier, the words it rises with, and where the top ones lie.

Shape legend: N examples, L layers, P prompt tokens, F neurons of a layer, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.tasks.datamodule import TaskDataModule
from lightning_modules.common.bounds import Count
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.skill_neurons import predictivity as sn
from lightning_modules.skill_neurons.hooks import hooked


def neuron_name(layer: int, unit: int) -> str:
    """`L1.N97`: as a number, 1.97 and 1.970 would be one neuron."""
    return f"L{layer}.N{unit}"


@torch.no_grad()
def neuron_accuracy(
    backbone: Backbone, data: TaskDataModule, prompts: Sequence[Tensor], *, layer: int, unit: int
) -> float:
    """Test accuracy of one neuron as the classifier, mean over prompts: baseline on train, token and side on validation.

    Only for two classes.
    """
    found = []
    for prompt in prompts:
        base = sn.baseline_LPF(backbone, data.fixed("train"), prompt)
        rates = {}
        for split in ("val", "test"):
            labels = data.examples(split).labels[None]
            counts = sn.count_above(backbone, data.fixed(split), prompt, baseline_LPF=base, labels_RN=labels, classes=2)
            above_CP = counts.above_RCLPF[0, :, layer, :, unit]
            total_C = counts.total_RC[0]
            rates[split] = (total_C[0] - above_CP[0] + above_CP[1]) / total_C.sum()
        token = (rates["val"] - 0.5).abs().argmax()
        high = rates["val"][token] >= 0.5
        found.append(float(rates["test"][token] if high else 1 - rates["test"][token]))
    return sum(found) / len(found)


@torch.no_grad()
def word_activation(
    backbone: Backbone, data: TaskDataModule, prompt: Tensor, *, layer: int, unit: int, least: Count = 8
) -> dict[str, float]:
    """Word -> how far above its mean the neuron's strongest prompt token is, on average, in test texts with that word.

    The strongest is the one that varies most. Words of fewer than `least` texts are left out.
    """
    values = []
    for batch in backbone.batches(data.fixed("test")):
        kept: list[Tensor] = []

        def see(i: int, x_BTF: Tensor, batch: Batch = batch, kept: list[Tensor] = kept) -> None:
            if i == layer:
                kept.append(backbone.read(x_BTF, batch, len(prompt))[..., unit])

        with hooked(backbone.sites(), see):
            backbone.answer(batch, prompt)
        values.append(kept[0])
    values_NP = torch.cat(values)
    widest = values_NP.var(0).argmax()
    centred = (values_NP[:, widest] - values_NP[:, widest].mean()).tolist()
    of_word: dict[str, list[float]] = {}
    for text, value in zip(data.task.texts["test"], centred, strict=True):
        for word in dict.fromkeys(text.lower().split()):
            of_word.setdefault(word, []).append(value)
    return {word: sum(found) / len(found) for word, found in of_word.items() if len(found) >= least}


def top_by_layer(pred_LF: Tensor, *, share: float) -> Tensor:
    """Mean predictivity of each layer's top share, [L]."""
    count = max(1, round(share * pred_LF.shape[1]))
    return pred_LF.topk(count, dim=1).values.mean(1)
