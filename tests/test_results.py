import ctypes
import importlib.metadata
import json
import os
import subprocess
import sys
import time

import pytest

from lightning_modules.runtime import provenance
from lightning_modules.runtime.load import taken_since
from tests import results
from tests.bench import results as bench
from tests.bench import runtime, suite
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


WORK = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
# A process that goes at once, and leaves behind what works and ends later.
LEAVES = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {WORK!r}]).pid)"


@pytest.mark.skipif(sys.platform != "linux", reason="what outlives its parent goes to the first process elsewhere")
def test_what_outlives_its_parent_counts_as_the_benchs_own():
    try:
        quiet = bench.Quiet(seconds=60)
        before = quiet.load._of_own()
        done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, check=True)
        os.waitpid(int(done.stdout), 0)
        assert taken_since(before, quiet.load._of_own()) > 0.4
    finally:
        ctypes.CDLL(None).prctl(bench.SUBREAPER, 0)


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [
        (1.5, "<= 1.5", True),
        (1.6, "<= 1.5", False),
        (5, ">= 5", True),
        (1, "< 1", False),
        (0, "0", True),
        (9, "", True),
    ],
)
def test_a_row_says_why_its_goal_is_missed_and_only_then(value, goal, met):
    assert bench.met(value, goal) == met
    assert bench.row("a", value, "s", goal=goal, missed="slow").get("why") == (None if met else "slow")


def test_a_part_of_a_bench_leaves_the_rows_of_the_others_and_drops_those_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    bench.write("a", [bench.row(name, 1.0, "s") for name in ("mine", "other's", "nobody's")], command="make")
    bench.write("b", [bench.row("mine", 1.0, "s")], command="make")
    bench.write("a", [bench.row("mine", 2.0, "s")], command="make", others={"other's"})
    rows = {(r["system"], r["row"]): r["value"] for r in json.loads((tmp_path / "bench.json").read_text())}
    assert rows == {("a", "mine"): 2.0, ("a", "other's"): 1.0, ("b", "mine"): 1.0}


def test_the_suites_seconds_are_those_of_a_whole_suite_that_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "LEAST", 2)
    path = tmp_path / "junit.xml"
    for failed, tests in ((1, 2), (0, 1)):
        path.write_text(XML.format(failed=failed, tests=tests))
        with pytest.raises(SystemExit, match=f"{tests} tests, {failed} of them failed"):
            suite.row_of(path)
    path.write_text(XML.format(failed=0, tests=2))
    found = suite.row_of(path)
    assert (found["row"], found["value"]) == ("test suite: seconds", 700.5)
    assert "2 tests on two workers; the slowest: test_b, 30 s" in found["why"]


XML = """<testsuites><testsuite errors="0" failures="{failed}" skipped="0" tests="{tests}" time="700.5">
<testcase name="test_a" time="3"/><testcase name="test_b" time="30.2"/></testsuite></testsuites>"""


def test_packages_are_told_as_their_own_library_tells_them():
    found = importlib.metadata.distributions()
    assert provenance.installed() == sorted({f"{d.metadata['Name']}=={d.version}" for d in found})


def test_the_bench_of_the_machinery_takes_no_part_or_some(capsys):
    assert runtime.asked([]).parts == []
    assert runtime.asked(["busy", "hundred", "--dry"]).parts == ["busy", "hundred"]
    with pytest.raises(SystemExit):
        runtime.asked(["bussy"])
    assert "bussy: no such part" in capsys.readouterr().err


def test_a_part_of_the_bench_is_written_before_the_next_one_begins(tmp_path, monkeypatch):
    class Still:
        def insist(self):
            pass

    def measured(part):
        if part == "busy":
            raise RuntimeError("stopped")
        return [bench.row(name, 1.0, "s") for name in runtime.NAMES[part]]

    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(runtime, "Quiet", Still)
    monkeypatch.setattr(runtime, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["runtime", "machinery", "commands", "busy"])
    with pytest.raises(RuntimeError, match="stopped"):
        runtime.main()
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert [row["row"] for row in kept] == [*runtime.NAMES["machinery"], *runtime.NAMES["commands"]]
    assert {row["command"].rpartition(" ")[2] for row in kept} == {"machinery", "commands"}
