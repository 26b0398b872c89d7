import json
import time

import pytest

from lightning_modules.runtime import provenance
from tests import results
from tests.bench import results as bench
from tests.results import note, took_its_steps


def test_a_row_replaces_the_one_of_its_key_and_only_when_asked(tmp_path, monkeypatch):
    def rows():
        return [(r["case"], r["ok"]) for r in json.loads((tmp_path / "cases.json").read_text())]

    monkeypatch.delenv("FACET_RESULTS", raising=False)
    note("cases", key=("case",), command="make", folder=tmp_path, case="b", ok=True)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("FACET_RESULTS", "1")
    for case, ok in (("b", False), ("a", True), ("b", True)):
        note("cases", key=("case",), command="make", folder=tmp_path, case=case, ok=ok)
    assert rows() == [("a", True), ("b", True)]


def test_a_copy_without_its_history_is_told_its_commit(monkeypatch):
    monkeypatch.setattr(provenance, "git", lambda *_: "")
    monkeypatch.delenv("FACET_COMMIT", raising=False)
    assert provenance.commit() == "unknown"
    monkeypatch.setenv("FACET_COMMIT", "0123456789ab")
    assert provenance.commit() == "0123456789ab"


@pytest.mark.parametrize(("changed", "expected"), [("", "0123456789ab"), (" M tests/results.py", "0123456789ab-dirty")])
def test_tables_that_were_written_before_leave_a_commit_clean(monkeypatch, changed, expected):
    monkeypatch.setattr(results, "commit", lambda: "0123456789ab-dirty")
    monkeypatch.setattr(results, "git", lambda *asked: changed if ":(top,exclude)docs/results" in asked else " M docs")
    assert results.checked_out() == expected


def test_a_training_that_differs_fails():
    with pytest.raises(AssertionError, match=r"moe: differs from the CPU by 0\.1"):
        took_its_steps("moe", on="nothing", steps=1, equal_to="the CPU", difference=0.1, limit=1e-5)


@pytest.mark.parametrize(("taken", "written"), [([0.1, 0.2], True), ([0.1, 0.9, 0.1], False)])
def test_a_bench_that_saw_a_busy_machine_says_so_and_leaves(monkeypatch, capsys, taken, written):
    """One busy stretch is enough: an average over the whole would hide it."""
    values = iter([*taken, *[0.0] * 1000])
    monkeypatch.setattr(bench.Load, "others", lambda _: next(values))
    quiet = bench.Quiet(seconds=0.01)
    while len(quiet.found) < len(taken):
        time.sleep(0.01)
    if written:
        quiet.insist()
    else:
        with pytest.raises(SystemExit):
            quiet.insist()
        assert "other processes took up to 0.9 cores" in capsys.readouterr().err
