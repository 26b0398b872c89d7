"""A run killed at any moment and started again ends as if nothing had happened, bit by bit."""

import signal

import pytest

from tests.robustness.runs import STEPS, assert_equal, curves, finish, kill_at, metrics_of, start, state, step_of

ARRANGEMENTS = {
    "one process, workers, accumulation": [
        "data.workers=2",
        "trainer.accumulate_grad_batches=2",
        "balance=global_two_pass",
    ],
    "two ranks": ["trainer=ddp_cpu", "trainer.devices=2", "balance=global_buffer", "trainer.accumulate_grad_batches=2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module", params=ARRANGEMENTS)
def whole(request, folder):
    """(overrides, folder of the uninterrupted run, its run folder).

    One of the runs to compare with is really started, so that its sets have another order.
    """
    overrides = ARRANGEMENTS[request.param]
    place = folder / f"whole {len(overrides)}"
    return overrides, place, finish(place, *overrides, really=request.param.startswith("one process"))


@pytest.mark.parametrize("kills", [(3, 18, 33)], ids=["three kills"])
def test_killed_three_times_it_ends_bitwise_the_same(whole, folder, kills):
    overrides, place, uninterrupted = whole
    broken = folder / f"killed {len(overrides)}"
    for step in kills:
        assert kill_at(broken, step, *overrides) == -signal.SIGKILL
    resumed = finish(broken, *overrides)
    assert "Going on from" in (broken / "output.log").read_text()
    assert_equal(state(resumed), state(uninterrupted))
    assert metrics_of(resumed) == metrics_of(uninterrupted)
    (expected, _), (found, run) = curves(place), curves(broken)
    assert found == expected, "every point once, each with the value it would have had"
    assert len(expected["train/loss"]) == STEPS
    assert run.info.status == "FINISHED"


def test_sigterm_saves_and_leaves_with_its_own_code(folder):
    place = folder / "sigterm"
    assert kill_at(place, 7, number=signal.SIGTERM) == 128 + signal.SIGTERM
    stopped_at = step_of(place)
    output = (place / "output.log").read_text()
    assert "stopped by SIGTERM; the same command goes on from here" in output
    _, run = curves(place)
    assert run.info.status == "KILLED"
    assert run.data.tags["failure_reason"].startswith("Preempted: stopped by SIGTERM")
    resumed = finish(place)
    # Nothing is done twice: the run goes on from the very step at which it was stopped.
    assert stopped_at < STEPS - 1
    _, run = curves(place)
    assert run.info.status == "FINISHED"
    assert_equal(state(resumed), state(finish(folder / "sigterm whole")))


def test_other_settings_are_refused_or_noted_and_other_data_is_refused(folder):
    place = folder / "drift"
    assert kill_at(place, 12) == -signal.SIGKILL
    # The same directory, as after an edit of conf/: overrides that the directory's name does not show.
    run_folder = next(place.glob("runs/**/tracking.jsonl")).parent
    same = [f"hydra.run.dir={run_folder}"]
    assert start(place, *same, "balance.weight=0.5").wait(timeout=120) == 2
    assert "was begun with something else: balance.weight was 0.008, is 0.5" in (place / "output.log").read_text()
    # Who wants to go on with it all the same takes the record away.
    (run_folder / "begun.json").unlink()
    assert start(place, *same, "data.layout=mixed").wait(timeout=120) == 1
    output = (place / "output.log").read_text()
    assert "error: this run was started on other data: the fingerprint of order has changed" in output
    (run_folder / "begun.json").unlink()
    finish(place, *same, "balance.weight=0.5")
    _, run = curves(place)
    assert run.data.tags["param_drift"] == "balance.weight: 0.008 -> 0.5"
    assert run.data.params["balance.weight"] == "0.008"
    assert run.info.status == "FINISHED"
