"""How long OpenMP's threads wait for work by spinning: set before torch is loaded, which is when it is read.

Beside one other busy process on two cores, threads that spin take away the core that the last of them needs; those that
sleep are half as fast again. Alone, libgomp's own way is the fastest. So it goes by what others take while the command
starts. A user's own setting stays as it is.
"""

import os
from collections.abc import Mapping, MutableMapping

from lightning_modules.runtime.load import BUSY

# Each of them decides how long threads spin. Without one, libgomp's spin for milliseconds.
USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}


def is_set(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody has said how threads wait."""
    return any(name in environment for name in USERS)


def settle(others: float, environment: MutableMapping[str, str] = os.environ) -> None:
    """For this process and all that it starts, unless the user has set how threads wait. others: the cores that other
    processes take."""
    if others >= BUSY and not is_set(environment):
        environment.update(ASLEEP)
