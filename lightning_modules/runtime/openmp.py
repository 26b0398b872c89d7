"""How long OpenMP's threads wait for work by spinning: set before torch is loaded, which is when it is read.

By its own default libgomp's threads spin for milliseconds at every barrier. Alone on the machine that costs nothing;
beside one other busy process on two cores they spin away the core that the last thread needs, and a training falls to
a twentieth of its speed. After `SPINS` rounds they sleep instead. A user's own setting stays as it is.
"""

import os
from collections.abc import MutableMapping

# Measured by `make bench`: within a few percent of spinning for long on an idle machine, several times faster on a busy one.
SPINS = 10_000
# Each of them decides how long threads spin.
USERS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def spin_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """For this process and all that it starts, unless the user has set how threads wait."""
    if not any(name in environment for name in USERS):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
