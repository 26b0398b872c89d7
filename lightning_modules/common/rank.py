"""Which of a run's processes this one is, known without loading Lightning, which takes seconds."""

import os
import sys

# As launchers tell a process its number, in Lightning's own order.
TOLD = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def told() -> int:
    """This process's number as its launcher told it, 0 where none did: Lightning's own rule."""
    return int(next(filter(None, map(os.environ.get, TOLD)), 0))


def is_first() -> bool:
    """Lightning's own word counts where it has been loaded."""
    lightning = sys.modules.get("pytorch_lightning.utilities.rank_zero")
    return (lightning.rank_zero_only.rank if lightning else told()) == 0
