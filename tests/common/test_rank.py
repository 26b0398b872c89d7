"""Which process is the first one, with Lightning loaded and without."""

import os
import subprocess
import sys

import pytest
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_modules.common import rank
from lightning_modules.common.rank import is_first


def test_lightnings_word_counts_where_it_is_loaded(monkeypatch):
    assert is_first()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert not is_first()


@pytest.mark.parametrize(
    ("told", "first"), [({}, True), ({"LOCAL_RANK": "1"}, False), ({"RANK": "0", "LOCAL_RANK": "1"}, True)]
)
def test_what_launchers_say_counts_else(told, first, monkeypatch):
    for name in rank.TOLD:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "pytorch_lightning.utilities.rank_zero")
    assert is_first() == first


def test_counting_rows_loads_no_lightning():
    code = "import sys, datamodules.intake; print('pytorch_lightning' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "False"
