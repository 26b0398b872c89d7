"""Whether this process is the first of a run's, known without loading Lightning, which takes seconds."""

import os
import sys

# As launchers tell a process its number; Lightning's own word counts where it has been loaded.
TOLD = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


def is_first() -> bool:
    lightning = sys.modules.get("pytorch_lightning.utilities.rank_zero")
    if lightning:
        return lightning.rank_zero_only.rank == 0
    return int(next((os.environ[name] for name in TOLD if name in os.environ), 0)) == 0
