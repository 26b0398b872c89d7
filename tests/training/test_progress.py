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


def test_a_bar_is_one_line_of_eighty_columns(monkeypatch, capsys):
    """A longer one would be drawn below itself at each refresh."""
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    numbers = {"loss": "4.299", "lbl": "1.098", "tok/s": "6,292"}
    monkeypatch.setattr(progress.Progress, "get_metrics", lambda *_: numbers)
    fit(steps=3, callbacks=[progress.Progress(refresh_rate=1)], progress=True)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]
    bars = [line for line in lines if line.startswith("training")]
    assert any(re.search(r"3/3 .*loss: 4.299 lbl: 1.098 tok/s:", line) for line in bars)
    assert max(map(len, bars)) <= 80
    assert [line for line in lines if not re.match(r"training|Validation|Sanity", line)] == []
