"""How OpenMP's threads wait for work, by spinning or asleep: set before torch is loaded, which is when it is read.

Alone on the machine, threads that spin for a while are the fastest. Beside one other busy process on two cores they spin
away the core that the last thread needs, and threads that sleep are. So it goes by what others take while the command
starts. A user's own setting stays as it is.

autograd's thread has a team of its own, so that in a training libgomp counts more threads than cores and spins by another
number: 1,000 rounds where the policy is ACTIVE and 100 where none is set, whatever GOMP_SPINCOUNT says above that.
"""

import os
from collections.abc import MutableMapping

from lightning_modules.runtime.load import BUSY

# Each of them decides how long threads spin.
USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
# By itself ACTIVE spins for minutes where there are no more threads than cores: a tenth of a millisecond is enough.
SPINNING = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "10000"}


def settle(others: float, environment: MutableMapping[str, str] = os.environ) -> None:
    """For this process and all that it starts, unless the user has set how threads wait. others: the cores that other
    processes take."""
    if not any(name in environment for name in USERS):
        environment.update(ASLEEP if others >= BUSY else SPINNING)
