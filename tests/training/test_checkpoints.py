"""Checkpoint files: whole, or the one before."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from lightning_modules.training import checkpoints
from lightning_modules.training.checkpoints import LAST, PREVIOUS, CheckedCheckpoints, damage, keep, newest_valid
from tests import forks
from tests.robustness.runs import PROJECT, assert_equal


def content(number):
    return {"step": number, "weights": torch.full((1000,), float(number))}


@pytest.fixture
def two(tmp_path):
    io = CheckedCheckpoints()
    for number in (1, 2):
        io.save_checkpoint(content(number), tmp_path / LAST)
    return tmp_path


def read(folder, say=None):
    path = newest_valid(folder, say=say or (lambda text: None))
    return path and CheckedCheckpoints().load_checkpoint(path)["step"]


def test_the_last_one_and_the_one_before_are_there(two):
    assert read(two) == 2
    assert CheckedCheckpoints().load_checkpoint(two / PREVIOUS)["step"] == 1
    assert {p.name for p in two.iterdir()} == {LAST, PREVIOUS, f"{LAST}.sha256", f"{PREVIOUS}.sha256"}
    assert newest_valid(two / "nothing here") is None


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    # Later than it was saved, also by the clock of a file system whose ticks are milliseconds.
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(("harm", "word"), [(truncate, "is damaged"), (flip, "is damaged"), (empty, "is empty")])
def test_a_harmed_one_falls_back_and_says_so(two, harm, word):
    harm(two / LAST)
    said = []
    assert read(two, said.append) == 1
    assert len(said) == 1
    assert word in said[0]
    assert "going on from previous.ckpt instead" in said[0]
    with pytest.raises(ValueError, match=word):
        CheckedCheckpoints().load_checkpoint(two / LAST)
    harm(two / PREVIOUS)
    with pytest.raises(ValueError, match=r"no checkpoint of this run is whole: .*last.ckpt.*previous.ckpt.*fresh=true"):
        read(two)


def test_a_missing_checksum_is_made_up_for_by_reading(two):
    (two / f"{LAST}.sha256").unlink()
    assert read(two) == 2
    truncate(two / LAST)
    assert read(two) == 1


def dies_at(monkeypatch, step):
    """From now on the `step`-th change of what stands on the disk is not made any more."""
    steps = itertools.count()

    def counted(make):
        def made(*args, **named):
            if next(steps) >= step:
                raise KeyboardInterrupt
            return make(*args, **named)

        return made

    changes = ((os, "replace"), (shutil, "copyfile"), (shutil, "rmtree"), (Path, "unlink"), (Path, "write_text"))
    for holder, name in changes:
        monkeypatch.setattr(holder, name, counted(getattr(holder, name)))


# A checkpoint of several processes is a folder.
@pytest.mark.parametrize("part", ["", "part.pt"])
def test_after_a_kill_between_any_two_steps_of_a_save_the_next_one_goes_on(tmp_path, monkeypatch, part):
    last, previous = tmp_path / LAST, tmp_path / PREVIOUS

    def put(number):
        beside = tmp_path / f"{number}.new"
        if part:
            beside.mkdir()
        torch.save(content(number), beside / part)
        keep(beside, last)

    def step_of(path):
        return torch.load(path / part, weights_only=True)["step"]

    put(0)
    put(1)
    for step in range(20):
        before = step_of(last)
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            dies_at(patched, step)
            put(10 * step + 2)
            break
        assert step_of(newest_valid(tmp_path, say=lambda text: None)) in (before, 10 * step + 2)
        put(10 * step + 3)
        put(10 * step + 4)
        assert (step_of(last), step_of(previous)) == (10 * step + 4, 10 * step + 3)
        assert not damage(last) and not damage(previous)
    assert 4 < step < 19


def test_a_harmed_one_does_not_take_the_place_of_the_one_before(two):
    flip(two / LAST)
    CheckedCheckpoints().save_checkpoint(content(3), two / LAST)
    assert CheckedCheckpoints().load_checkpoint(two / PREVIOUS)["step"] == 1
    assert read(two) == 3


def test_what_this_process_saved_is_not_read_once_more_at_the_next_save(two, monkeypatch):
    looked = []
    monkeypatch.setattr(checkpoints, "damage", lambda path: looked.append(path) or damage(path))
    CheckedCheckpoints().save_checkpoint(content(3), two / LAST)
    assert looked == []
    monkeypatch.setattr(checkpoints, "_known_whole", {})  # as of another process
    CheckedCheckpoints().save_checkpoint(content(4), two / LAST)
    assert looked == [two / LAST]
    assert (read(two), CheckedCheckpoints().load_checkpoint(two / PREVIOUS)["step"]) == (4, 3)


def test_of_a_folder_that_was_harmed_inside_the_one_before_stays(tmp_path):
    for number in (1, 2, 3):
        beside = tmp_path / "beside"
        beside.mkdir()
        (beside / "part.bin").write_bytes(bytes([number]) * 100)
        if number == 3:
            flip(tmp_path / LAST / "part.bin")
        keep(beside, tmp_path / LAST)
    found = {name: (tmp_path / name / "part.bin").read_bytes()[0] for name in (PREVIOUS, LAST)}
    assert found == {PREVIOUS: 1, LAST: 3}


def test_a_kill_during_a_write_leaves_a_whole_one(tmp_path):
    code = f"""
import torch
from pathlib import Path
from lightning_modules.training.checkpoints import CheckedCheckpoints
io, path, number = CheckedCheckpoints(), Path({str(tmp_path)!r}) / "last.ckpt", 0
while True:
    number += 1
    io.save_checkpoint({{"step": number, "weights": torch.full((300_000,), float(number))}}, path)
"""
    draw = random.Random(0)
    before = 0
    for _ in range(3):
        process = forks.Popen([sys.executable, "-c", code], cwd=PROJECT)
        while not (tmp_path / PREVIOUS).is_file():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        path = newest_valid(tmp_path, say=lambda text: None)
        checkpoint = CheckedCheckpoints().load_checkpoint(path)
        assert_equal(checkpoint["weights"], torch.full((300_000,), float(checkpoint["step"])))
        before += checkpoint["step"]
        for p in tmp_path.iterdir():
            p.unlink()
    assert before > 3


def test_a_full_disk_keeps_the_one_before(two):
    code = f"""
import resource, signal, torch
from pathlib import Path
from lightning_modules.training.checkpoints import CheckedCheckpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
CheckedCheckpoints().save_checkpoint({{"step": 3, "weights": torch.zeros(100_000)}}, Path({str(two)!r}) / "last.ckpt")
"""
    done = forks.run([sys.executable, "-c", code], cwd=PROJECT, timeout=120)
    assert done.returncode != 0
    assert "no checkpoint could be written (File too large" in done.stderr.splitlines()[-1]
    assert read(two) == 2
    assert {p.name for p in two.iterdir()} == {LAST, PREVIOUS, f"{LAST}.sha256", f"{PREVIOUS}.sha256"}


def test_a_pickle_is_not_loaded(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/attacked",)

    torch.save({"step": Attack()}, tmp_path / LAST)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path)
    import hashlib

    digest = hashlib.sha256((tmp_path / LAST).read_bytes()).hexdigest()
    (tmp_path / f"{LAST}.sha256").write_text(digest)
    with pytest.raises(Exception, match="[Ww]eights.only"):
        read(tmp_path)
    assert not (tmp_path / "attacked").exists()
