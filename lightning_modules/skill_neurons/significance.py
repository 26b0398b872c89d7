"""Is a neuron's predictivity more than chance? Its own null, and the family-wise one, from permuted labels.

Neurons differ in how predictive chance makes them (one that never fires has no chance at all, one with many prompt tokens to
choose from has more), so a null pooled over neurons calls too many significant. Here every neuron is held against itself
under permuted labels, and, for the question whether there is any, against the best neuron of each permutation: the maximum
statistic of Westfall and Young, which holds the chance of one false neuron in the whole model at its level.

Shape legend: N examples, L layers, P prompt tokens, F neurons of a layer, C classes, R labellings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.prompt.backbone import Backbone, Batch
from lightning_modules.skill_neurons.hooks import at_prompt
from lightning_modules.skill_neurons.predictivity import Counts, permuted_labels, predictivity_RLF

# Predictivity is a mean of quotients: equal ones may differ by rounding, and a tie counts as reached.
TIE = 1e-6
# Labellings counted at once: their counts are all that is held beside the result.
BLOCK = 50
_EIGHT = 8


@dataclass(frozen=True)
class Signs:
    """Whether each activation lies above its neuron's baseline, a bit each.

    packed_LPNF: [L, P, N, F / 8], uint8. width: F.
    """

    packed_LPNF: Tensor
    width: int

    def of(self, layer: int, token: int) -> Tensor:
        """float [N, F]."""
        bits_NF8 = self.packed_LPNF[layer, token][..., None] >> torch.arange(_EIGHT, device=self.packed_LPNF.device) & 1
        return bits_NF8.flatten(1)[:, : self.width].float()

    def of_neuron(self, layer: int, unit: int) -> Tensor:
        """bool [N, P]."""
        return (self.packed_LPNF[layer, :, :, unit // _EIGHT] >> unit % _EIGHT & 1).bool().T


def _packed(bits_BPF: Tensor) -> Tensor:
    """bool [B, P, F] as uint8 [P, B, F / 8]."""
    padded = torch.nn.functional.pad(bits_BPF.to(torch.uint8), (0, -bits_BPF.shape[-1] % _EIGHT))
    weights = 2 ** torch.arange(_EIGHT, dtype=torch.uint8, device=bits_BPF.device)
    return (padded.unflatten(-1, (-1, _EIGHT)) * weights).sum(-1, dtype=torch.uint8).transpose(0, 1)


@torch.no_grad()
def signs(backbone: Backbone, batches: Iterable[Batch], prompt: Tensor, *, baseline_LPF: Tensor) -> Signs:
    """One pass over `batches`. Memory: N x L x P x F bits, whatever the number of labellings asked of them."""
    layers, _, width = baseline_LPF.shape
    kept: list[list[Tensor]] = [[] for _ in range(layers)]
    for batch in backbone.batches(batches):

        def see(layer: int, x_BPF: Tensor) -> None:
            kept[layer].append(_packed(x_BPF > baseline_LPF[layer]))

        at_prompt(backbone, batch, prompt, see)
    return Signs(torch.stack([torch.cat(parts, 1) for parts in kept]), width)


@torch.no_grad()
def predictivity_of(found: Signs, labels_RN: Tensor, *, classes: int, balanced: bool = False) -> Tensor:
    """Pred(N) under every labelling, [R, L, F]: equations 3 to 5 of Wang et al., a layer and a prompt token at a time."""
    layers, tokens, examples = found.packed_LPNF.shape[:3]
    runs, device = len(labels_RN), found.packed_LPNF.device
    one_hot_RCN = torch.nn.functional.one_hot(labels_RN, classes).transpose(1, 2)
    rows_RCxN = one_hot_RCN.reshape(runs * classes, examples).float().to(device)
    total_RC = one_hot_RCN.sum(2)
    by_layer = []
    for layer in range(layers):
        above = torch.stack([rows_RCxN @ found.of(layer, token) for token in range(tokens)], 1)
        above_RCLPF = above.view(runs, classes, 1, tokens, found.width).cpu()
        by_layer.append(predictivity_RLF(Counts(above_RCLPF, total_RC), balanced=balanced)[:, 0])
    return torch.stack(by_layer, 1)


@dataclass(frozen=True)
class Significance:
    """p-values [L, F], never 0 (Phipson and Smyth): against the neuron's own null, and family-wise over the whole model."""

    own_LF: Tensor
    family_LF: Tensor

    def counts(self) -> dict[str, int]:
        """Neurons at the usual levels, by the name of the level."""
        return {
            "neurons": self.own_LF.numel(),
            "own null p<=.01": int((self.own_LF <= 0.01).sum()),
            "family-wise p<=.05": int((self.family_LF <= 0.05).sum()),
        }


def of_labellings(
    trials: Sequence[Signs], labels_N: Tensor, *, classes: int, permutations: int, seed: int, balanced: bool = False
) -> Significance:
    """Of the mean predictivity over trials (one `Signs` each), from `permutations` of the labels.

    A permutation is the same in every trial: trials share their examples, and a null of independent ones is too narrow.
    """
    labels_RN = permuted_labels(labels_N, permutations=permutations, seed=seed)

    def mean_RLF(rows_RN: Tensor) -> Tensor:
        each = [predictivity_of(found, rows_RN, classes=classes, balanced=balanced) for found in trials]
        return torch.stack(each).mean(0)

    true_LF = mean_RLF(labels_RN[:1])[0]
    own_LF, family_LF = (torch.ones_like(true_LF, dtype=torch.long) for _ in range(2))
    for rows_RN in labels_RN[1:].split(BLOCK):
        null_RLF = mean_RLF(rows_RN)
        own_LF += (null_RLF >= true_LF - TIE).sum(0)
        family_LF += (null_RLF.flatten(1).amax(1)[:, None, None] >= true_LF - TIE).sum(0)
    return Significance(own_LF / len(labels_RN), family_LF / len(labels_RN))
