"""Damaged files of a run or sweep: the file is named and what to do, and an empty one is not there."""

import json
import shutil

import pytest

from lightning_modules.moe import comparison
from lightning_modules.runtime import records, sync
from lightning_modules.runtime.sweep_report import jobs
from tests.runtime.cli import PLAIN, main

READERS = {records.RESULT: records.result, records.RUN: records.run, records.SWEEP: records.sweep}
RUN = ["experiment_name=test/records", "trainer.max_steps=2", "trainer.val_check_interval=1", *PLAIN]


@pytest.mark.parametrize("name", READERS)
def test_each_says_which_file_it_is_and_what_to_do(tmp_path, name):
    path, read = tmp_path / name, READERS[name]
    assert read(tmp_path) is None
    for nothing in (b"", b"\n", b"\0\0\0\0"):
        path.write_bytes(nothing)
        assert read(tmp_path) is None
    for damaged in (b'{"metrics": {"a', b"\xff\xfe\x00", b"[]", b"3", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path} is damaged \(.*\); delete it, and"):
            read(tmp_path)
    whole = {"metrics": {}, "uid": "a", "run_id": None, "params": None}
    path.write_text(json.dumps(whole))
    assert read(tmp_path) == whole


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    main(folder, *RUN)
    (run,) = (p.parent for p in folder.glob("runs/**/result.json"))
    return folder, run


@pytest.fixture
def breakable(ended, tmp_path):
    """(folder, run) of a run that has ended, to damage; put back afterwards."""
    folder = ended[0]
    shutil.copytree(folder, tmp_path / "kept")
    yield ended
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def again(folder, *more):
    return main(folder, *more, *RUN, check=False)


def test_a_run_stops_at_a_damaged_file_and_goes_on_without_it(breakable):
    folder, run = breakable
    before = records.result(run)
    (run / records.RESULT).write_text('{"metr')
    stopped = again(folder)
    assert stopped.code == 1
    assert f"error: {run}/result.json is damaged (" in stopped.text
    assert "Traceback" not in stopped.text
    (run / records.RESULT).write_text("")
    (run / records.RUN).write_text('{"uid"')
    stopped = again(folder)
    assert f"error: {run}/run.json is damaged (" in stopped.text
    assert "Traceback" not in stopped.text
    (run / records.RUN).unlink()
    assert again(folder).code == 0
    assert records.result(run)["run_id"] == before["run_id"], "found again by its journal"


def test_a_sweep_says_which_job_and_goes_on_with_the_others(breakable):
    folder, run = breakable
    (run / records.RESULT).write_text("{")
    done = again(folder, "-m", "seed=1,2")
    assert done.code == 1
    assert "Traceback" not in done.text
    found = {
        next(o for o in e["overrides"] if o.startswith("seed=")): (e["status"], e["reason"])
        for e in jobs(run.parent).values()
    }
    assert found["seed=2"][0] == "done"
    status, reason = found["seed=1"]
    assert status == "failed"
    assert reason.startswith(f"{run}/result.json is damaged")
    second = next(p.parent for p in run.parent.glob("*-s2/result.json"))
    (second / records.RESULT).write_text("[]")
    assert "no metrics" in jobs(run.parent)[second.name]["reason"], "damaged after it was done"
    (run.parent / records.SWEEP).write_text("{")
    done = again(folder, "-m", "seed=1,2")
    assert f"error: {run.parent}/sweep.json is damaged" in done.text
    assert "Traceback" not in done.text


def test_sync_and_comparison_name_the_file(breakable):
    folder, run = breakable
    (run / "tracking.done").unlink()
    (run / records.RUN).write_text("{")
    assert f"{run}/run.json is damaged" in sync.sync(folder / "runs")[str(run)]
    (run / records.RESULT).write_text("{")
    with pytest.raises(ValueError, match=r"result.json is damaged .* delete it"):
        comparison.load(folder / "runs")
    (run / records.RESULT).write_text("")
    with pytest.raises(ValueError, match="no finished run"):
        comparison.load(folder / "runs")
