"""What a command does before it loads torch, from the outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.runtime import lean, openmp
from lightning_modules.runtime.load import BUSY

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
    done = subprocess.run(
        command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


# As the probe says them.
ALONE, BESIDE = "None None", "None PASSIVE"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {f"{ALONE} None", f"{BESIDE} None"}),
        ({"GOMP_SPINCOUNT": "7"}, {"7 None None"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"None ACTIVE None"}),
        ({"OMP_NUM_THREADS": "3"}, {f"{ALONE} 3", f"{BESIDE} 3"}),
    ],
)
def test_how_threads_wait_is_settled_before_torch_is_loaded(tmp_path, environment, expected):
    code, said, error = until_torch(tmp_path, "debug=smoke", **environment)
    assert code == MET and said.strip() in expected, error


def test_beside_busy_processes_threads_wait_asleep(tmp_path):
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        code, said, error = until_torch(tmp_path, "debug=smoke")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert (code, said.strip()) == (MET, f"{BESIDE} None"), error


@pytest.mark.parametrize(("others", "expected"), [(0.0, {}), (BUSY, openmp.ASLEEP)])
def test_how_threads_wait_goes_by_what_others_take(others, expected):
    environment = {"OTHER": "1"}
    openmp.settle(others, environment)
    assert environment == {"OTHER": "1", **expected}


@pytest.fixture(scope="module")
def types_are_kept(tmp_path_factory):
    """The first command after a change of the sources reads their types, and loads torch for it."""
    folder = tmp_path_factory.mktemp("first")
    command = [sys.executable, str(PROJECT / "main.py"), "debug=smoke", "nothing=1"]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)


@pytest.mark.usefixtures("types_are_kept")
def test_names_options_and_types_are_refused_without_torch(tmp_path):
    code, _, error = until_torch(
        tmp_path, "debug=smoke", "modle=x", "balance=microo", "seed=x", "model.layers=0", "trainer.max_steps=a"
    )
    assert code == 2, error
    for word in ("modle", "balance=microo", "seed is 'x'", "model.layers is 0", "trainer.max_steps is 'a'"):
        assert word in error
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("types_are_kept")
def test_what_is_done_is_told_without_torch(tmp_path):
    code, _, _ = until_torch(tmp_path, "debug=smoke", "hydra.run.dir=run")
    assert code == MET, "there is something to do"
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / "result.json").write_text(json.dumps({"metrics": {}}))
    code, _, error = until_torch(tmp_path, "debug=smoke", "hydra.run.dir=run")
    assert code == 0, error
    assert "Already done" in error


def test_what_starts_the_jobs_of_a_sweep_loads_neither_torch_nor_mlflow():
    """Each of joblib's workers imports it too."""
    code = (
        "import sys, lightning_modules.runtime.sweep; print(*{'torch', 'pytorch_lightning', 'mlflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_libraries_are_loaded_without_what_they_load_for_others_who_still_find_it():
    code = """
import sys
from lightning_modules.runtime import lean
lean.prepare()
import pytorch_lightning, transformers.modeling_utils
from lightning_utilities.core import imports
print(*(name for name in ("scipy.signal", "scipy.optimize", "matplotlib") if name in sys.modules))
print(all(map(imports.package_available, lean.EXTRAS)), bool(imports.RequirementCache("scipy>=1.8.0")))
from transformers.loss.loss_rt_detr import linear_sum_assignment as matched
print(*matched([[1, 0], [0, 1]])[1], "scipy.optimize" in sys.modules)
scan, folder = transformers.utils.import_utils.create_import_structure_from_path, transformers.models.__path__[0]
told, kept = scan.cache_info(), scan(folder)
print(told.misses == told.currsize > 128, transformers.LlamaConfig.__name__, kept == scan.__wrapped__(folder))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["", "True True", "1 0 True", "True LlamaConfig True"], done.stdout + done.stderr


@pytest.mark.parametrize(("packages", "expected"), [("", True), ("mine", False)])
def test_a_users_package_has_all_that_libraries_load(monkeypatch, packages, expected):
    monkeypatch.setenv("FACET_PACKAGES", packages)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if f.__class__.__module__ != lean.__name__])
    before = len(sys.meta_path)
    lean.prepare()
    assert len(sys.meta_path) == before + expected


def test_imports_are_looked_through_neither_meanwhile_nor_later():
    code = """
import gc
from lightning_modules.runtime import lean
made = []
try:
    with lean.uncollected():
        made.append(gc.isenabled())
        alive = [[] for _ in range(1000)]
        raise ImportError
except ImportError:
    print(made, gc.isenabled(), gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[False] True True True\n"


def test_what_was_imported_is_not_looked_through_when_the_process_ends():
    """It took the interpreter three seconds of the processor after a run's last line."""
    code = "import atexit, gc, main; atexit._run_exitfuncs(); print(len(gc.get_objects()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
