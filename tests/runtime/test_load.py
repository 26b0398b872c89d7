"""What other processes take of the machine is told from what our own took, however those end."""

from collections import namedtuple

import pytest

from lightning_modules.runtime import load
from lightning_modules.runtime.load import taken_since

ROOT, SWEEP, SERVER = 1, 2, 3


@pytest.mark.parametrize(
    ("before", "now", "taken"),
    [
        ({ROOT: (0, 10.0)}, {ROOT: (0, 12.0)}, 2.0),
        ({ROOT: (0, 10.0)}, {ROOT: (0, 10.0), SWEEP: (ROOT, 3.0)}, 3.0),
        ({ROOT: (0, 10.0), SWEEP: (ROOT, 3.0)}, {ROOT: (0, 14.0)}, 1.0),
        # The sweep ends and leaves its 4 seconds to the root; the server of its jobs leaves its 112 to nobody.
        ({ROOT: (0, 10.0), SWEEP: (ROOT, 3.0), SERVER: (SWEEP, 112.0)}, {ROOT: (0, 14.0)}, 1.0),
        # Here the sweep waited for it.
        ({ROOT: (0, 10.0), SWEEP: (ROOT, 3.0), SERVER: (SWEEP, 112.0)}, {ROOT: (0, 10.0), SWEEP: (ROOT, 116.0)}, 1.0),
    ],
)
def test_processes_that_end_leave_their_seconds_to_whoever_waits_for_them(before, now, taken):
    assert taken_since(before, now) == pytest.approx(taken)


def test_a_job_of_two_cores_is_not_slowed_by_what_the_machines_others_do(monkeypatch):
    """SLURM gives it cores 4 and 5 of eight; all but those work."""
    times = namedtuple("times", "user idle iowait")
    seconds = [0.0] * 8
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {5, 4}, raising=False)
    monkeypatch.setattr(load.psutil, "cpu_times", lambda percpu: [times(s, 1.0, 0.5) for s in seconds])
    clock = iter((0.0, 10.0, 10.0))
    monkeypatch.setattr(load.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(load.Load, "_of_own", lambda _: {ROOT: (0, 0.0)})
    beside = load.Load()
    seconds[:4] = [10.0] * 4
    assert beside.others() == 0.0
    seconds[4] = 5.0
    assert beside.others() == 0.5
    # A container may hide some of the machine's.
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {9})
    assert load._all() == 45.0
