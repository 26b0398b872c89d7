"""Which targets of a batch count, and how many of them and of tokens an optimizer step has.

Shape legend: B sequences of S tokens in one forward.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

MASKS = {"target_mask", "attention_mask"}


def valid(batch: dict[str, Tensor]) -> Tensor:
    """Targets that count, bool [B, S]: `target_mask`, or neither read from padding nor padding themselves, or all.

    Position s predicts s + 1; of the last one's target no mask tells, so it counts when its own position does.
    """
    if "target_mask" in batch:
        return batch["target_mask"].bool()
    if "attention_mask" in batch:
        mask_BS = batch["attention_mask"].bool()
        return mask_BS & torch.cat([mask_BS[:, 1:], mask_BS[:, -1:]], 1)
    return torch.ones_like(batch["targets"], dtype=torch.bool)


def tokens(batch: dict[str, Tensor]) -> Tensor:
    """Which are no padding, bool [B, S]."""
    return batch.get("attention_mask", torch.ones_like(batch["targets"])).bool()


def mean_counts(batches: Iterable[dict[str, Tensor]], *, ranks: int, device: torch.device) -> Tensor:
    """Targets that count and tokens of one forward [2], in the mean over a step's: `batches` of this rank, as many of each
    other.

    What each forward's sums over targets (cross-entropy) and over tokens (z-loss) are divided by, where the step's loss is
    the mean over all of them: a mean of the forwards' own means would weigh each by how few stand beside it.
    """
    counts_A2 = torch.stack([torch.stack([valid(b).sum(), tokens(b).sum()]).to(device) for b in batches])
    total_2 = counts_A2.sum(0)
    if ranks > 1:
        dist.all_reduce(total_2)
    return total_2 / (len(counts_A2) * ranks)
