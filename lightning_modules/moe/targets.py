"""Which targets of a batch count, and how many of them and of tokens it has.

Shape legend: B sequences of S tokens in one forward.
"""

import torch
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


def counted(batch: dict[str, Tensor]) -> Tensor:
    """Targets that count, and tokens that are no padding: int64 [2]."""
    tokens_BS = batch.get("attention_mask", torch.ones_like(batch["targets"])).bool()
    return torch.stack([valid(batch).sum(), tokens_BS.sum()])
