"""Keeps a run's terminal to what its user asked for: advertisements, bars inside bars and known-harmless warnings go."""

import logging
import os
import warnings

CHATTY = (
    "mlflow.store.db.utils",
    "mlflow.tracking",
    "alembic",
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.accelerators",
    "pytorch_lightning.trainer.connectors.checkpoint_connector",
)


def loggers() -> None:
    """Raise the chatty ones to WARNING, before their libraries are imported, where they read it only once."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def hush() -> None:
    """All of it, for a process that trains."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    loggers()
    # Lightning's own code calls what torch has deprecated; and on two cores more workers would not help.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    # What is logged on epoch level has been reduced over ranks by torchmetrics already.
    warnings.filterwarnings("ignore", message=r".*It is recommended to use `self.log.*sync_dist=True.*")
    # SLURM's tools are installed: no reason to tell everybody to use them.
    warnings.filterwarnings("ignore", message=r".*The `srun` command is available on your system but is not used.*")
    # Batches of this module are moved by itself on purpose.
    warnings.filterwarnings(
        "ignore", message=r".*You have overridden `transfer_batch_to_device` in `LightningModule`.*"
    )
    # A frozen backbone stands in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training.*")
    # Every datamodule of ours gives the same order from (seed, epoch) and Lightning skips what was trained on: a resumed run
    # is bitwise the undisturbed one (tests/robustness/test_resume.py).
    warnings.filterwarnings("ignore", message=r".*your dataloader is not resumable\. This can cause unreliable results")
    warnings.filterwarnings("ignore", message=r".*Checkpoint directory .* exists and is not empty.*")

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
