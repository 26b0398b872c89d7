"""What a study says while it makes things: how far it is, how long still, and nothing once it is over."""

import threading

import pytest

from lightning_modules.common.making import Thing, watched_by
from lightning_modules.runtime import teller
from lightning_modules.runtime.teller import Making, Teller


def test_what_has_no_steps_to_count_says_that_it_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(teller, "PAUSE", 0.05)
    one, said = Thing(kind="arm", name="svco", steps=5), threading.Event()
    watch = Teller(None)
    say = watch._say
    monkeypatch.setattr(watch, "_say", lambda text: (say(text), said.set() if "so far" in text else None))
    with watched_by(watch):
        watch.expects([one])
        with watch.making(one):
            assert said.wait(20)
    assert "arm svco: 0:0" in capsys.readouterr().err
    talking = [thread for thread in threading.enumerate() if thread.name == "teller"]
    for thread in talking:
        thread.join(10)
    assert not any(thread.is_alive() for thread in talking), "it would speak into whatever comes next"


def test_the_time_left_goes_by_the_steps_and_not_by_the_reading_before_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(teller.time, "perf_counter", lambda: now[0])
    one = Making(Thing(kind="base model", name="scenes", steps=100), offset=0)
    now[0] = 90.0
    one.reaches(1)
    assert one.left is None
    now[0] = 92.0
    one.reaches(5)
    assert one.left == pytest.approx(95 * 0.5)


def test_slow_steps_say_how_far_they_are(capsys):
    watch = Teller(None)
    with watched_by(watch), watch.making(Thing(kind="arm", name="svco", steps=5)):
        assert "so far" in watch._so_far()
        watch.trains(5)
        watch.step(1, 0.75)
        assert watch._so_far() == "arm svco: step 1 of 5, loss 0.750"
        watch.step(5, 0.5)
        assert "so far" in watch._so_far(), "what comes after its training"
    assert watch._so_far() == "Still at work."
