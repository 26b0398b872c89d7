"""One holder at a time; a dead one's lock is taken over, by one of those who want it."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lightning_modules.common import lock
from lightning_modules.common.lock import HELD, HeldError, held, waited
from lightning_modules.common.made import made

HOLD = "import sys; from pathlib import Path; from lightning_modules.common import lock; lock.BEAT = 0.1\n"
HOLD += "with lock.held(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def base(tmp_path):
    return tmp_path / "run" / "lock"


@pytest.fixture
def other(base):
    """Another process that holds `base` until its stdin is closed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, base], stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def claims(base):
    return sorted(p.name for p in base.parent.glob("lock.*"))


def from_elsewhere(base, *, age):
    """A claim of a process on another host that was touched `age` seconds ago."""
    with held(base):
        pass
    (claim,) = base.parent.glob("lock.*")
    me = {"pid": os.getpid(), "started": 0.0, "since": "2026-01-01 00:00:00 +0000", "token": "t"}
    claim.write_text(json.dumps({"host": "node7", "place": "node7 4026531836", **me}))
    os.utime(claim, (time.time() - age, time.time() - age))


def test_the_second_is_told_who_holds_it(base, other):
    with pytest.raises(HeldError) as refused, held(base):
        pass
    text = str(refused.value)
    assert text.startswith(f"{base.parent} is in use by process {other.pid} on {socket.gethostname()}, since 20")
    assert claims(base) == ["lock.1"], "the second leaves nothing behind"


def test_given_back_it_is_free(base, other):
    other.communicate("")
    with held(base), pytest.raises(HeldError), held(base):
        pass
    with held(base):
        pass


@pytest.mark.parametrize("how", ["killed", "zombie", "number came round", "number is ours"])
def test_a_dead_holder_is_taken_over(base, other, how):
    if how.startswith("number"):
        claim = base.parent / "lock.1"
        holder = json.loads(claim.read_text())
        other.communicate("")
        pid = os.getpid() if how == "number is ours" else os.getppid()
        claim.write_text(json.dumps({**holder, "pid": pid, "started": holder["started"] - 1000}))
    else:
        other.kill()
        if how == "killed":
            other.wait()
        else:
            time.sleep(0.3)
    with held(base):
        assert claims(base) == ["lock.2"]


def test_a_stopped_process_of_this_machine_is_not_dead(base, other):
    other.send_signal(signal.SIGSTOP)
    os.utime(base.parent / "lock.1", (0, 0))
    with pytest.raises(HeldError), held(base):
        pass
    other.send_signal(signal.SIGCONT)


def test_another_host_is_alive_while_its_heart_beats(base):
    from_elsewhere(base, age=lock.LIMIT - 10)
    with pytest.raises(HeldError, match="on node7, since 2026-01-01 .*taken for dead after 60 s"), held(base):
        pass
    from_elsewhere_again = base.parent / "lock.1"
    os.utime(from_elsewhere_again, (time.time() - lock.LIMIT - 10,) * 2)
    with held(base):
        assert claims(base) == ["lock.2"]


def test_age_is_by_the_clock_of_the_file_system(base, monkeypatch):
    from_elsewhere(base, age=0)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(HeldError), held(base):
        pass


def test_the_holder_gives_signs_of_life(base, other):
    claim = base.parent / "lock.1"
    os.utime(claim, (0, 0))
    time.sleep(0.5)
    assert claim.stat().st_mtime > time.time() - 5


def test_one_that_was_taken_over_stops_at_once(base, other):
    """As after a host that hung longer than the limit."""
    (base.parent / "lock.1").rename(base.parent / "lock.2")
    assert other.wait(timeout=20) == HELD
    assert "was taken over by another process or deleted; stopping" in other.stderr.read()


def contend(base, start, wins, done):
    start.wait()
    try:
        with held(base):
            wins.put(os.getpid())
            done.wait()
    except HeldError:
        wins.put(None)


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_at_once_one_wins(base, dead):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        if dead:
            from_elsewhere(base, age=2 * lock.LIMIT)
        start, wins, done = context.Event(), context.Queue(), context.Event()
        crowd = [context.Process(target=contend, args=(base, start, wins, done)) for _ in range(8)]
        for process in crowd:
            process.start()
        start.set()
        winners = [wins.get(timeout=30) for _ in crowd]
        done.set()
        for process in crowd:
            process.join()
        assert sum(pid is not None for pid in winners) == 1


def count_up(base, path, start):
    start.wait()
    for _ in range(20):
        with waited(base, what="a sum"):
            path.write_text(str(int(path.read_text()) + 1))


def test_waiting_loses_no_turn(base, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL", 0.001)
    context, path = multiprocessing.get_context("fork"), tmp_path / "sum"
    path.write_text("0")
    start = context.Event()
    crowd = [context.Process(target=count_up, args=(base, path, start)) for _ in range(4)]
    for process in crowd:
        process.start()
    start.set()
    for process in crowd:
        process.join(60)
    assert path.read_text() == "80"


def make_slowly(folder, log):
    def make(place):
        with open(log, "a") as file:
            file.write("made\n")
        time.sleep(2)
        (place / "a").write_text("a")

    sys.stderr = open(f"{log}.{os.getpid()}", "w")  # noqa: SIM115
    made(folder=folder, key={"a": 1}, make=make)


def test_what_is_kept_is_made_once_and_waited_for(tmp_path):
    context = multiprocessing.get_context("fork")
    crowd = [context.Process(target=make_slowly, args=(tmp_path / "kept", tmp_path / "log")) for _ in range(2)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    assert (tmp_path / "log").read_text() == "made\n"
    told = sorted(p.read_text() for p in tmp_path.glob("log.*"))
    assert told[0] == ""
    assert "which is being made by process" in told[1]
    assert told[1].count("\n") == 1
