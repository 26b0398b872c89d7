"""The order of training sequences: a pure function of (seed, epoch), sliced by rank, exactly resumable.

A micro-batch is m sequences. A global batch, one optimizer step, is G = A x R x M x m sequences laid out in that
order: A accumulation steps, R ranks, M micro-batches of one forward. Each rank takes its slice, so R ranks with M
micro-batches see the same samples as one rank with R x M.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lightning_modules.common.choices import check_choice

LAYOUTS = ("homogeneous", "mixed")
ORDER_VERSION = 1


def micro_batches_per_forward(*, global_batch: int, micro_batch: int, accumulate: int, ranks: int) -> int:
    """M of a forward; ValueError with the nearest global batch when the sizes do not divide."""
    unit = micro_batch * accumulate * ranks
    if global_batch % unit or global_batch < unit:
        nearest = max(unit, round(global_batch / unit) * unit)
        raise ValueError(
            f"data.global_batch is {global_batch} sequences; expected a multiple of data.micro_batch ({micro_batch}) x "
            f"trainer.accumulate_grad_batches ({accumulate}) x trainer.devices ({ranks}) = {unit}; the nearest is {nearest}."
        )
    return global_batch // unit


def global_batches(
    *, sizes: Sequence[int], micro_batch: int, global_batch: int, layout: str, seed: int, epoch: int
) -> np.ndarray:
    """Window numbers of an epoch, int64 [steps, global_batch]; window w of domain d is sum(sizes[:d]) + w.

    `homogeneous`: each run of `micro_batch` comes from one domain (the paper's condition). `mixed`: its control, the
    same multiset of sequences in every global batch, permuted within it. Domains come up in proportion to their
    size; windows that fill no whole micro-batch or global batch wait for the next epoch's permutation.
    """
    check_choice("data.layout", layout, LAYOUTS)
    groups = []
    offset = 0
    for domain, size in enumerate(sizes):
        draw = np.random.default_rng([seed, epoch, 1, domain])
        order = draw.permutation(size)[: size // micro_batch * micro_batch]
        groups.append(offset + order.reshape(-1, micro_batch))
        offset += size
    groups_GM = np.concatenate(groups)
    groups_GM = groups_GM[np.random.default_rng([seed, epoch, 2]).permutation(len(groups_GM))]
    per_step = global_batch // micro_batch
    steps = len(groups_GM) // per_step
    if steps == 0:
        raise ValueError(
            f"the training split holds {len(groups_GM)} micro-batches of {micro_batch} sequences, fewer than one "
            f"data.global_batch of {global_batch}; lower data.global_batch or data.seq_len, or bring more text."
        )
    batches = groups_GM[: steps * per_step].reshape(steps, global_batch)
    if layout == "mixed":
        shuffle = [np.random.default_rng([seed, epoch, 3, step]).permutation(global_batch) for step in range(steps)]
        batches = np.take_along_axis(batches, np.stack(shuffle), 1)
    return batches.astype(np.int64)


class GlobalBatchSampler:
    """Yields one rank's window numbers, forward after forward, through as many epochs of the text as it takes.

    Forward n of a run is forward n mod `per_epoch` of epoch n // `per_epoch`: Lightning sees one long epoch, so a run
    can stop and go on anywhere. `start` is the first forward to yield; `len` stays that of the whole run.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int],
        micro_batch: int,
        global_batch: int,
        layout: str = "homogeneous",
        seed: int = 0,
        accumulate: int = 1,
        ranks: int = 1,
        rank: int = 0,
        steps: int | None = None,
    ) -> None:
        """steps: optimizer steps of the run; None means one epoch."""
        micro_batches_per_forward(
            global_batch=global_batch, micro_batch=micro_batch, accumulate=accumulate, ranks=ranks
        )
        self.accumulate, self.ranks, self.rank = accumulate, ranks, rank
        self._order: dict[str, Any] = dict(
            sizes=list(sizes), micro_batch=micro_batch, global_batch=global_batch, layout=layout, seed=seed
        )
        self._cached: tuple[int, np.ndarray] = (0, global_batches(**self._order, epoch=0))
        self.per_epoch = len(self._cached[1]) * accumulate
        self.forwards = self.per_epoch if steps is None else steps * accumulate
        self.start = 0

    def forward_windows(self, forward: int) -> list[int]:
        """This rank's windows of forward `forward` of the run, M x m numbers."""
        epoch, index = divmod(forward, self.per_epoch)
        if self._cached[0] != epoch:
            self._cached = (epoch, global_batches(**self._order, epoch=epoch))
        step, part = divmod(index, self.accumulate)
        return self._cached[1][step].reshape(self.accumulate, self.ranks, -1)[part, self.rank].tolist()

    def __len__(self) -> int:
        return self.forwards

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.forward_windows, range(self.start, self.forwards))
