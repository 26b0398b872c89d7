"""Which targets of a batch count, and how many an optimizer step has.

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


def mean_targets(batches: Iterable[dict[str, Tensor]], *, ranks: int, device: torch.device) -> Tensor:
    """Targets of one forward, in the mean over a step's: `batches` of this rank, as many of each other.

    What each forward's sum of losses is divided by, where the step's loss is the mean over all its targets: a mean of the
    forwards' own means would weigh a target by how few stand beside it.
    """
    counts_A = torch.stack([valid(batch).sum().to(device) for batch in batches])
    total = counts_A.sum()
    if ranks > 1:
        dist.all_reduce(total)
    return total / (len(counts_A) * ranks)
