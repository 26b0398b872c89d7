"""What `make gpu` says without a GPU, what it keeps, and that a run without a tracking server imports no MLflow."""

import json
import subprocess
import sys

import pytest
import torch

from tests.bench.results import fill
from tests.gpu import __main__ as gpu
from tests.gpu.place import compared, measured
from tests.results import PROJECT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line(capsys):
    assert gpu.main([]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tests.gpu: torch ")
    assert line.endswith("finds no GPU on this machine; nothing was run and no table was changed.")


def test_what_is_not_installed_is_named(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "psutil" else name)
    assert gpu.main([]) == 2
    assert capsys.readouterr().out.startswith("tests.gpu: psutil not installed; expected torch, ")


@pytest.fixture
def made(monkeypatch):
    """Cases that count their calls; `b` fails while `broken` holds it."""
    calls, broken = [], ["b"]

    def case(name):
        def rows(place):
            calls.append(name)
            if name in broken:
                raise RuntimeError("no memory left")
            yield measured("moe", name, 1.0, "x")

        return rows

    monkeypatch.setattr(gpu, "cases", lambda: {name: case(name) for name in "abc"})
    return calls, broken


def test_it_goes_on_where_it_was_stopped(made, tmp_path):
    calls, broken = made
    said, kept = [], tmp_path / "deep" / "kept.json"
    assert gpu.run(None, "abc", kept=kept, budget_s=60, say=said.append) == ["b"]
    assert "b: failed, RuntimeError: no memory left" in said
    broken.clear()
    assert gpu.run(None, "abc", kept=kept, budget_s=60, say=said.append) == []
    assert calls == ["a", "b", "c", "b"]
    assert [row["row"] for row in gpu.rows_of(kept)] == ["GPU: a", "GPU: c", "GPU: b"]


def test_what_no_time_is_left_for_is_named(made, tmp_path):
    assert gpu.run(None, "abc", kept=tmp_path / "kept.json", budget_s=-1) == ["a", "b", "c"]
    assert made[0] == []


def test_every_row_is_a_line_of_the_table():
    rows = [
        measured("moe", "speed", 3.0, "x", goal=">= 2"),
        measured("moe", "peak", None, "", why="not known"),
        compared("svco", steps=1, equal_to="the CPU", difference=0.5, limit=0.1),
    ]
    lines = [line.split("  ", 1)[1].strip() for line in gpu.table(rows).splitlines()]
    assert lines == ["3 x, goal >= 2", "not measured, not known", "NOT, differs from the CPU by 0.5"]


def test_rows_take_the_place_of_those_not_measured(tmp_path):
    path = tmp_path / "bench.json"
    before = {"unit": "", "goal": "", "peer": "", "commit": "a", "machine": "m", "command": "make bench"}
    names = ("speed", "GPU: speed", "GPU: memory")
    path.write_text(
        json.dumps([{"system": "moe", "row": name, "value": None, "why": "no", **before} for name in names])
    )
    new = measured("moe", "speed", 2.0, "x")
    fill([{k: v for k, v in new.items() if k != "table"}], command="make gpu", machine="1 x GPU", folder=tmp_path)
    rows = {row["row"]: (row["value"], row["command"]) for row in json.loads(path.read_text())}
    assert rows == {
        "speed": (None, "make bench"), "GPU: memory": (None, "make bench"), "GPU: speed": (2.0, "make gpu")
    }  # fmt: skip
    assert "| GPU: speed | 2 | x |" in (tmp_path / "bench.md").read_text()


# Stands in the place of a machine that has what is named and what that itself asks for, and nothing else.
BARE = """
import importlib.metadata as metadata, re, runpy, sys
sys.path.insert(0, ".")
from importlib.machinery import PathFinder
from packaging.requirements import Requirement
from tests.gpu.__main__ import NEEDED

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

there, owners = {plain(d.metadata["Name"]): d for d in metadata.distributions()}, metadata.packages_distributions()
kept, left = set(), [plain(owner) for module in NEEDED for owner in owners[module]]
while left:
    if (name := left.pop()) in there and name not in kept:
        kept.add(name)
        asked = map(Requirement, there[name].requires or ())
        left += [plain(r.name) for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
missing = {module for module, by in owners.items() if not kept & set(map(plain, by))}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)

for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
    del sys.modules[name]
sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
assert {"mlflow", "vl_convert", "pytest", "datasets"} <= missing
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    "told",
    [
        "from tests.gpu.__main__ import cases; cases()",
        "sys.argv = ['main.py', *{settings}]; runpy.run_path('main.py', run_name='__main__')",
    ],
)
def test_what_it_needs_is_all_that_is_named(told, tmp_path):
    places = [f"paths.{name}={tmp_path}/{name}" for name in ("runs", "tracking", "cache")]
    settings = ["debug=smoke", "logger=none", "trainer.max_steps=2", "trainer.val_check_interval=2", *places]
    code = BARE + told.format(settings=settings)
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
