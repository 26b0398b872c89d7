"""Skill neurons: how well single neurons on prompt tokens tell a task's classes apart (section 3 of Wang et al.).

Two passes over data, each reduced inside the hook: the mean activation over the training set, then, on other examples, how
often each class lies above it. Memory is O(R x C x L x P x F), whatever the number of examples.

Shape legend: B examples, L layers, P prompt tokens, F neurons of a layer, C classes, R labellings (the first is the true
one, the others permute it), S binary subtasks.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from lightning_modules.common.choices import check_choice
from lightning_modules.common.wide import wide
from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.skill_neurons.hooks import at_prompt, each_layer

WITHIN = ("layer", "model")


class Counts(NamedTuple):
    """above_RCLPF: examples of each class whose activation exceeds the baseline; total_RC: examples of each class."""

    above_RCLPF: Tensor
    total_RC: Tensor


class Moments(NamedTuple):
    """Mean and standard deviation of every neuron [L, F], over all positions that are not padding."""

    mean_LF: Tensor
    std_LF: Tensor


@torch.no_grad()
def baseline_LPF(backbone: Backbone, batches: Iterable[Batch], prompt: Tensor) -> Tensor:
    """Mean activation at each prompt token, or where `Backbone.read` reads instead: a_bsl(N, p) of equation 2."""
    sums: dict[int, Tensor] = {}
    seen = 0
    for batch in backbone.batches(batches):

        def see(layer: int, x_BPF: Tensor) -> None:
            part = wide(x_BPF).sum(0)
            sums[layer] = sums[layer] + part if layer in sums else part

        at_prompt(backbone, batch, prompt, see)
        seen += len(batch["input_ids"])
    return torch.stack([sums[layer] for layer in sorted(sums)]).float().to(backbone.device) / seen


@torch.no_grad()
def count_above(
    backbone: Backbone,
    batches: Iterable[Batch],
    prompt: Tensor,
    *,
    baseline_LPF: Tensor,
    labels_RN: Tensor,
    classes: int,
) -> Counts:
    """Second pass. labels_RN: a row per labelling, in the order of the examples (`permuted_labels`)."""
    layers, tokens, width = baseline_LPF.shape
    runs = len(labels_RN)
    above = torch.zeros(layers, runs * classes, tokens * width, device=baseline_LPF.device)
    start = 0
    for batch in backbone.batches(batches):
        size = len(batch["input_ids"])
        one_hot_RCB = torch.nn.functional.one_hot(labels_RN[:, start : start + size], classes).permute(0, 2, 1)
        rows_RCxB = one_hot_RCB.flatten(0, 1).float().to(above)
        start += size

        def see(layer: int, x_BPF: Tensor, rows: Tensor = rows_RCxB) -> None:
            above[layer].addmm_(rows, (x_BPF > baseline_LPF[layer]).flatten(1).float())

        at_prompt(backbone, batch, prompt, see)
    total_RC = torch.stack([torch.bincount(row, minlength=classes) for row in labels_RN])
    shaped = above.view(layers, runs, classes, tokens, width).permute(1, 2, 0, 3, 4)
    return Counts(shaped.cpu(), total_RC)


def permuted_labels(labels_N: Tensor, *, permutations: int, seed: int) -> Tensor:
    """The labels and `permutations` shuffles of them, [1 + permutations, N]."""
    draw = torch.Generator().manual_seed(seed)
    shuffled = [labels_N[torch.randperm(len(labels_N), generator=draw)] for _ in range(permutations)]
    return torch.stack([labels_N, *shuffled])


def subtasks(classes: int) -> list[tuple[list[int], list[int]]]:
    """Binary subtasks of a task: its two classes, or, with more, one per bit of the class number.

    Four classes give the two balanced subtasks of the paper's appendix; where sides hold different numbers of classes, each
    side counts half.
    """
    bits = range(max(1, (classes - 1).bit_length()))
    return [([c for c in range(classes) if not c >> b & 1], [c for c in range(classes) if c >> b & 1]) for b in bits]


def predictivity_RLF(counts: Counts, *, balanced: bool = False) -> Tensor:
    """Pred(N) for each labelling: the best prompt token's max(Acc, 1 - Acc), averaged over subtasks (equations 3 to 5).

    balanced: average the accuracy of the two sides, so that a constant neuron scores 0.5 whatever the class sizes; always
    so for more than two classes.
    """
    above, total = counts.above_RCLPF.double(), counts.total_RC.double()
    classes = total.shape[1]
    found = []
    for low, high in subtasks(classes):
        n_low, n_high = (total[:, side].sum(1)[:, None, None, None] for side in (low, high))
        right_low = n_low - above[:, low].sum(1)
        right_high = above[:, high].sum(1)
        if balanced or classes > 2:
            accuracy = (right_low / n_low + right_high / n_high) / 2
        else:
            accuracy = (right_low + right_high) / (n_low + n_high)
        found.append(torch.maximum(accuracy, 1 - accuracy).amax(2))
    return torch.stack(found).mean(0).float()


def find(
    backbone: Backbone,
    *,
    train: Iterable[Batch],
    dev: Iterable[Batch],
    labels_N: Tensor,
    prompt: Tensor,
    classes: int,
    permutations: int = 0,
    balanced: bool = False,
    seed: int = 0,
    baseline: Tensor | None = None,
) -> Tensor:
    """Predictivity [1 + permutations, L, F] with one prompt: baseline on `train`, accuracy on `dev`.

    labels_N: of `dev` in its order. Row 0 is the task's; the others are the null of permuted labels. baseline: that of
    `baseline_LPF`, where it is there already.
    """
    base = baseline_LPF(backbone, train, prompt) if baseline is None else baseline
    labels_RN = permuted_labels(labels_N, permutations=permutations, seed=seed)
    counts = count_above(backbone, dev, prompt, baseline_LPF=base, labels_RN=labels_RN, classes=classes)
    return predictivity_RLF(counts, balanced=balanced)


def select(pred_LF: Tensor, *, share: float, rank_within: str = "layer") -> Tensor:
    """Bool mask [L, F] of the top `share` of each `layer` (the paper's) or of the `model`; ties go to the lower number."""
    check_choice("rank_within", rank_within, WITHIN)
    flat = pred_LF if rank_within == "layer" else pred_LF.reshape(1, -1)
    count = torch.full((len(flat), 1), round(share * flat.shape[1]), device=flat.device)
    return _top(flat, count).view_as(pred_LF)


def select_like(pred_LF: Tensor, mask_LF: Tensor) -> Tensor:
    """Bool mask [L, F] of as many top neurons in every layer as `mask_LF` has there."""
    return _top(pred_LF, mask_LF.sum(1, keepdim=True))


def _top(pred_LF: Tensor, count_L1: Tensor) -> Tensor:
    """Bool mask [L, F] of each row's highest, as many as its count; ties go to the lower number."""
    order = pred_LF.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(pred_LF.shape[1], device=pred_LF.device) < count_L1
    return torch.zeros_like(pred_LF, dtype=torch.bool).scatter_(1, order, chosen)


def tied_share(pred_LF: Tensor, mask_LF: Tensor, *, rank_within: str = "layer") -> float:
    """Share of the selected neurons that tie with one left out: how far the choice rests on the tie-break."""
    tied = 0
    pred, mask = (x if rank_within == "layer" else x.reshape(1, -1) for x in (pred_LF, mask_LF))
    for pred_F, mask_F in zip(pred, mask, strict=True):
        if mask_F.any() and not mask_F.all():
            edge = pred_F[mask_F].min()
            tied += int((pred_F[mask_F] == edge).sum()) if (pred_F[~mask_F] == edge).any() else 0
    return tied / max(1, int(mask_LF.sum()))


def random_like(mask_LF: Tensor, *, seed: int) -> Tensor:
    """As many random neurons in every layer."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros_like(mask_LF)
    for layer, count in enumerate(mask_LF.sum(1).tolist()):
        found[layer, torch.randperm(mask_LF.shape[1], generator=draw)[:count]] = True
    return found


def spearman(preds: Sequence[Tensor], *, layer: int | None = None) -> Tensor:
    """Rank correlation of neurons' predictivity between tasks, [tasks, tasks]; of one layer, or of all together."""
    rows = [(p if layer is None else p[layer]).flatten().cpu().numpy() for p in preds]
    size = len(rows)
    found = torch.eye(size)
    for i in range(size):
        for j in range(i):
            found[i, j] = found[j, i] = float(stats.spearmanr(rows[i], rows[j]).statistic)
    return found


@torch.no_grad()
def moments(backbone: Backbone, batches: Iterable[Batch], prompt: Tensor | None) -> Moments:
    """Mean and spread of every neuron over positions and examples: the unit of alpha, and what pruning fixes neurons to."""
    sums: dict[int, Tensor] = {}
    seen = 0
    for batch in backbone.batches(batches):
        mask_BT = batch["attention_mask"].bool()

        def see(layer: int, x_BTF: Tensor, mask_BT: Tensor = mask_BT) -> None:
            kept = wide(x_BTF[mask_BT])
            sums[layer] = sums.get(layer, 0) + torch.stack([kept.sum(0), kept.square().sum(0)])

        each_layer(backbone, batch, prompt, see)
        seen += int(mask_BT.sum())
    mean, square = torch.stack([sums[layer] for layer in sorted(sums)], 1) / seen
    return Moments(mean.float().cpu(), (square - mean.square()).clamp(min=0).sqrt().float().cpu())
