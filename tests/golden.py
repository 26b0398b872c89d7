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


# Another CPU rounds float32 otherwise, and training steps make that grow. Measured against two others (AVX-512 with AMX,
# and held to SSE): at most 1.1e-5 in the first three steps, at most 4.5e-4 in twelve, and one example of 64 in predictivity.
EARLY, AT_FIRST, LATER = 3, 2e-5, 1e-3


def compare(name, found):
    """found: {curve: losses by step}. Equal to the golden ones within float32's rounding of another CPU."""
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    assert found.keys() == golden.keys()
    for curve, losses in golden.items():
        torch.testing.assert_close(found[curve][:EARLY], losses[:EARLY], rtol=0, atol=AT_FIRST)
        torch.testing.assert_close(found[curve], losses, rtol=0, atol=LATER)


def compare_shares(name, found, *, of):
    """found: {task: nested lists of shares of `of` examples}. Equal to the golden ones but for one example in 5%."""
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    torch.testing.assert_close(found, golden, rtol=0, atol=1 / of)
    for task, shares in golden.items():
        away = (torch.tensor(found[task]) - torch.tensor(shares)).abs() > 1e-6
        assert away.float().mean() <= 0.05, f"{task}: {int(away.sum())} of {away.numel()} differ"


def write(name, found):
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
