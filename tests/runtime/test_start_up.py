"""What a command does before it loads torch, from the outside."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.runtime.openmp import SPINS

PROJECT = Path(__file__).parents[2]
MET = 77
# Runs main.py and leaves with MET where torch is first asked for, after saying how its threads will wait.
PROBE = f"""
import os, runpy, sys
class Probe:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(*(os.environ.get(key) for key in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")), flush=True)
            os._exit({MET})
sys.meta_path.insert(0, Probe())
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def until_torch(folder, *overrides, **environment):
    """(exit code, stdout, stderr) of main.py, which ends where it would load torch."""
    users = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    clean = {name: value for name, value in os.environ.items() if name not in users}
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    command = [sys.executable, "-c", PROBE, str(PROJECT / "main.py"), *places, *overrides]
    done = subprocess.run(command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, f"{SPINS} None None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE None"),
        ({"OMP_NUM_THREADS": "3"}, f"{SPINS} None 3"),
    ],
)
def test_how_threads_wait_is_settled_before_torch_is_loaded(tmp_path, environment, expected):
    code, said, error = until_torch(tmp_path, "debug=smoke", **environment)
    assert (code, said.strip()) == (MET, expected), error
