"""What `make test-load` counts; nothing is loaded here."""

import contextlib
import json
import sys

import pytest

from tests.robustness import load


@pytest.fixture
def of(tmp_path, monkeypatch):
    """Two files, of which b fails at its second time; load.json's rows."""
    seen = []

    def once(name):
        seen.append(name)
        return 2.0, ["test_x"] if name == "b" and seen.count("b") == 2 else []

    monkeypatch.setenv("FACET_RESULTS", "1")
    monkeypatch.setattr(load, "once", once)
    monkeypatch.setattr(load, "busy", lambda cores: contextlib.nullcontext())
    monkeypatch.setattr(load, "CHECKED_OUT", "abc")
    monkeypatch.setattr(load.Load, "others", lambda _: 1.5)

    def repeat(times):
        bad = load.repeat(["a", "b"], times, loops=0, folder=tmp_path)
        return bad, {row["tests"]: row for row in json.loads((tmp_path / "load.json").read_text())}

    repeat.seen = seen
    return repeat


def test_failures_are_counted_and_named(of):
    bad, rows = of(3)
    assert bad == 1
    assert [rows[n]["repetitions"] for n in "ab"] == [3, 3]
    assert [rows[n]["failures"] for n in "ab"] == [0, 1]
    assert (rows["b"]["failed"], rows["b"]["seconds"]) == (["test_x"], 2.0)
    assert rows["b"]["cores_of_others"] == 1.5


def test_the_same_command_again_goes_on_and_another_commit_begins_anew(of, monkeypatch):
    of(2)
    assert of(3)[0] == 1, "the failure of before counts"
    assert of.seen == ["a", "b"] * 3
    monkeypatch.setattr(load, "CHECKED_OUT", "def")
    _, rows = of(1)
    assert (rows["b"]["repetitions"], rows["b"]["failures"], rows["b"]["commit"]) == (1, 0, "def")


def test_every_file_is_there():
    assert "tests/robustness/test_resume.py" in load.files()
    assert all((load.PROJECT / name).is_file() for name in load.files())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["often"], "'often' is no number of repetitions; expected a number"),
        (["2", "tests/robustness/test_sweep"], "'tests/robustness/test_sweep' is no such file"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused(monkeypatch, words, said):
    monkeypatch.setattr(sys, "argv", ["load", *words])
    with pytest.raises(SystemExit, match=said):
        load.main()


def test_a_part_is_run_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(load, "repeat", lambda tests, number, loops: asked.append((tests, number, loops)))
    monkeypatch.setattr(load.os, "cpu_count", lambda: 4)
    for words in ([], ["3"], ["2", "tests/robustness/test_sweep.py"], ["3", "--loops", "0"]):
        monkeypatch.setattr(sys, "argv", ["load", *words])
        assert load.main() == 0
    alone = ["tests/robustness/test_sweep.py"]
    assert asked == [(load.files(), load.REPETITIONS, 4), (load.files(), 3, 4), (alone, 2, 4), (load.files(), 3, 0)]
