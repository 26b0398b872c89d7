"""What a training says where there is no terminal: in a pipe, under nohup, in SLURM's log."""

import re

import pytorch_lightning as pl

from lightning_modules.common.say import say
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
    # As many digits as a run of ten thousand forwards has.
    monkeypatch.setattr(progress.Progress, "total_train_batches", 8_000_000)
    fit(steps=3, callbacks=[progress.Progress(refresh_rate=1)], progress=True)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]
    bars = [line for line in lines if line.startswith("training")]
    assert any(re.search(r"3/8000000 .*loss: 4.299 lbl: 1.098 tok/s: 6,292", line) for line in bars)
    assert max(map(len, bars)) <= 80
    assert [line for line in lines if not re.match(r"training|Validation|Sanity", line)] == []


def test_a_word_beside_a_live_bar_stands_above_it(monkeypatch, capsys):
    """Written past the bar it would be drawn over, and the bar of before left behind."""
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    words = "Steps take 0.07 s, twice as long as before: " + "other processes take the cores " * 3

    class Says(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                say(words)

    fit(steps=3, callbacks=[progress.Progress(refresh_rate=1), Says()], progress=True)
    said = capsys.readouterr()
    assert said.err == "", "the bar's own console has it"
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.out)
    assert " ".join(words.split()) in " ".join(drawn.split())
