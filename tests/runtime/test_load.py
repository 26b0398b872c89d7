"""What other processes take of the machine is told from what our own took, however those end."""

import pytest

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
