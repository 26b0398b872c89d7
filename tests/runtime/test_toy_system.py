"""A system written by docs/systems.md, from that page itself: planned, run, killed, swept, replayed, refused elsewhere."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from tests import forks
from tests.runtime.cli import PROJECT
from tests.tracking import database

PAGE = (PROJECT / "docs" / "systems.md").read_text()
# A paragraph that begins with a file's name, and the block of code under it.
FILES = dict(re.findall(r"^`(parity/[\w./]+)`(?:[^\n]+\n)*?[^\n]*\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S))
COMMANDS = [line.split()[2:] for line in re.findall(r"^\.venv/bin/python main\.py .*$", PAGE, re.M)]
PLAN, RUN, SWEEP, REPLAY = COMMANDS


class Lab:
    """A folder with the package, and main.py as somebody who works there would start it."""

    def __init__(self, folder):
        self.folder = folder
        for name, text in FILES.items():
            path = folder / "lab" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "lab" / "parity" / "__init__.py").touch()
        database(folder / "tracking")
        self.client = MlflowClient(f"sqlite:///{folder}/tracking/mlflow.db")

    def start(self, *arguments, packages="parity", output=subprocess.DEVNULL):
        places = [f"paths.{name}={self.folder}/{name}" for name in ("cache", "runs", "tracking")]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "lab"), "FACET_PACKAGES": packages}
        command = [sys.executable, str(PROJECT / "main.py"), *arguments, *places]
        return forks.Popen(
            command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )

    def main(self, *arguments, code=0, packages="parity"):
        process = self.start(*arguments, packages=packages, output=subprocess.PIPE)
        text = process.communicate(timeout=300)[0]
        assert process.returncode == code, text
        assert "Traceback" not in text
        return text

    def results(self, experiment="width"):
        """Folder -> result.json of every run that ended."""
        return {
            p.parent: json.loads(p.read_text()) for p in self.folder.glob(f"runs/parity/{experiment}/*/result.json")
        }

    def curve(self, run_id):
        return [(m.step, m.value) for m in self.client.get_metric_history(run_id, "train/loss")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(lab):
    """result.json of the page's run."""
    lab.main(*RUN)
    (result,) = lab.results().values()
    return result


def test_the_page_has_every_file():
    assert set(FILES) == {
        *(f"parity/{name}.py" for name in ("losses", "data", "module", "figures", "checks")),
        "parity/conf/system/parity.yaml",
        "parity/conf/experiment/parity/width.yaml",
    }


def test_it_is_planned_and_nothing_is_made(lab, run):
    def made():
        # A plan keeps how long a step took, for the run to be measured against.
        return {path for path in lab.folder.rglob("*.json") if path.parent.name != "plans"}

    before = made()
    assert "seconds a step" in lab.main(*PLAN)
    assert made() == before


def test_it_learns_and_all_of_it_is_in_mlflow(lab, run):
    assert run["metrics"]["test/accuracy"] > 0.9, "chance is a half"
    assert run["steps"] == 300
    stored = lab.client.get_run(run["run_id"]).data
    assert stored.params["model.width"] == "32"
    assert "fingerprint.data" in stored.tags
    assert [f.path for f in lab.client.list_artifacts(run["run_id"], "figures")] == ["figures/weights.png"]
    assert len(lab.curve(run["run_id"])) == 30


def test_its_mistakes_are_named_before_anything_is_made(lab):
    text = lab.main(*RUN, "model.width=0", "data.global_batch=1024", "model.widht=3", code=2)
    assert "model.width is 0; expected greater than or equal to 1" in text
    assert "data.global_batch is 1024; expected at most data.examples, which is 512" in text
    assert "model.widht: no such key; the nearest is 'model.width'" in text
    assert "the nearest is 'parity/width'" in lab.main("experiment=parity/wdth", code=2)
    assert "FACET_PACKAGES names 'nothere', which is no package" in lab.main(*RUN, packages="nothere", code=2)


def test_killed_it_goes_on_and_ends_the_same(lab, run):
    other = ["experiment_name=parity/killed", "callbacks.resume_point.every_n_steps=7", "trainer.log_every_n_steps=1"]
    # On a loaded machine the run may be through before it is seen to have begun: then once more, from its start.
    for _ in range(5):
        shutil.rmtree(lab.folder / "runs" / "parity" / "killed", ignore_errors=True)
        process = lab.start(*RUN, *other)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if [*lab.folder.glob("runs/parity/killed/*/checkpoints/last.ckpt")]:
                break
            time.sleep(0.005)
        process.kill()
        if process.wait(timeout=60) == -signal.SIGKILL:
            break
    assert process.returncode == -signal.SIGKILL
    assert "Going on from" in lab.main(*RUN, *other)
    (resumed,) = lab.results("killed").values()
    whole, points = dict(lab.curve(run["run_id"])), lab.curve(resumed["run_id"])
    assert [step for step, _ in points] == list(range(300)), "each point once"
    assert {step: value for step, value in points if step in whole} == whole
    assert resumed["metrics"]["test/loss"] == run["metrics"]["test/loss"]


def test_it_sweeps_and_has_a_report(lab, run):
    lab.main(*SWEEP)
    report = (lab.folder / "runs" / "parity" / "width" / "report.md").read_text()
    assert "4 of 4 jobs done" in report
    assert "| model.width=2 | 2 |" in report
    assert (lab.folder / "runs" / "parity" / "width" / "report.png").is_file()
    found = {"2": [], "32": []}
    for result in lab.results().values():
        width = lab.client.get_run(result["run_id"]).data.params["model.width"]
        found[width].append(result["metrics"]["test/accuracy"])
    assert min(found["32"]) > max(found["2"])


def test_it_is_replayed_where_its_package_is_let_in(lab, run):
    replay = [argument.replace("RUN", run["run_id"]) for argument in REPLAY]
    assert "bitwise the same" in lab.main(*replay)
    refused = lab.main(*replay, packages="", code=2)
    assert "_target_ is 'parity." in refused
    assert "the environment variable FACET_PACKAGES=NAME lets in a package of your own" in refused
