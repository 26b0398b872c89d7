"""What a training says where there is no terminal: in a pipe, under nohup, in SLURM's log."""

import re

from lightning_modules.training import progress
from tests.moe.toy import fit


def test_lines_and_no_bars(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    _, module, trainer = fit(steps=3, callbacks=[progress.Progress()], progress=True)
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines[0] == "Training: 3 steps; a line every half minute."
    assert re.fullmatch(r"step 2 of 3: loss \d\.\d+, .*\d:\d\d left", lines[2])
    assert lines[4:] == ["Testing.", "testing."]
