"""Golden numbers: tests/golden/NAME.json holds what the code gave on one thread when its commit says so.

A change of them needs a commit that says why: `python -m tests.test_golden NAME` writes them anew.
"""

import json
from pathlib import Path

import pytorch_lightning as pl
import torch

FOLDER = Path(__file__).parent / "golden"


class Losses(pl.Callback):
    """The loss of every training step."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


def compare(name, found):
    """found: {curve: numbers}. Equal to the golden ones within float32's rounding of another CPU."""
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    torch.testing.assert_close(found, golden, rtol=0, atol=2e-6)


def write(name, found):
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
