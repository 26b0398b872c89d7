"""A fork in the place of a process: exit codes, signals, environment and what is left of it, as of a command's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from joblib.externals.loky import ProcessPoolExecutor
from omegaconf import OmegaConf

from lightning_modules.runtime import forks

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def light(monkeypatch):
    """Of what the server imports only one is looked at: whether it is clean."""
    monkeypatch.setattr(forks, "PRELOAD", "json")


def fork(folder, text, *words, silent=False, **environment):
    script = folder / "job.py"
    script.write_text(text)
    return forks.Fork([sys.executable, str(script), *words], environment={**os.environ, **environment}, silent=silent)


# Where the tests run in a shell's background the signal is ignored.
PYTHONS_OWN = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def test_a_fork_runs_no_code_that_was_edited_since_its_server_began(tmp_path, monkeypatch):
    """Half of it would be what the server has imported, half what stands on the disk."""
    module = tmp_path / "lightning_modules" / "a.py"
    module.parent.mkdir()
    module.write_text("one = 1")
    (tmp_path / "main.py").touch()
    monkeypatch.setattr(forks, "PROJECT", tmp_path)
    monkeypatch.setattr(forks, "_sources", None)
    assert forks.up_to_date()
    monkeypatch.setattr(forks, "_sources", forks.sources())
    assert forks.up_to_date()
    module.write_text("two = 2, edited")
    assert not forks.up_to_date()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("import sys; sys.exit(7)", 7),
        ("import sys; sys.exit('why')", 1),
        ("raise ValueError", 1),
        ("import os; os._exit(5)", 5),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        (f"{PYTHONS_OWN}; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_exit_codes_are_those_of_a_command(tmp_path, text, code):
    found = fork(tmp_path, text).wait()
    assert found == code
    assert (
        subprocess.run([sys.executable, str(tmp_path / "job.py")], check=False, stderr=subprocess.DEVNULL).returncode
        == code
    )


def test_it_is_told_what_a_command_is_told_and_ends_as_one(tmp_path):
    text = f"""
import atexit, json, os, sys
atexit.register(lambda: open({str(tmp_path / "after")!r}, "w").write("was here"))
told = dict(name=__name__, words=sys.argv[1:], own=os.environ.get("OWN"), path=os.environ.get("PYTHONSAFEPATH"))
json.dump(told, open({str(tmp_path / "told")!r}, "w"))
"""
    assert fork(tmp_path, text, "a=1", "b=2", OWN="x").wait() == 0
    assert json.loads((tmp_path / "told").read_text()) == {
        "name": "__main__",
        "words": ["a=1", "b=2"],
        "own": "x",
        "path": None,
    }
    assert (tmp_path / "after").read_text() == "was here"


def test_a_killed_one_takes_nothing_else_and_a_signal_reaches_one_alone(tmp_path):
    pair = [fork(tmp_path, "import time; time.sleep(60)") for _ in range(2)]
    third = fork(tmp_path, "")
    pair[0].send_signal(signal.SIGKILL)
    assert pair[0].wait() == -signal.SIGKILL
    pair[1].send_signal(signal.SIGTERM)
    assert pair[1].wait() == -signal.SIGTERM
    assert third.wait() == 0
    pair[1].send_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_job_outlives_its_server(tmp_path):
    job = fork(tmp_path, f"import time; time.sleep(2); open({str(tmp_path / 'end')!r}, 'w').close()")
    server = psutil.Process(job.process).parent()
    time.sleep(0.5)
    server.kill()
    assert job.wait() == forks.LOST
    assert (tmp_path / "end").exists(), "its end was waited for"
    assert fork(tmp_path, "exit(3)").wait() == 3, "another server is begun"


def in_a_worker(folder):
    """In a process of joblib's."""
    forks.PRELOAD = "json"
    jobs = [fork(folder, "import sys; sys.exit(int(sys.argv[1]))", code) for code in ("7", "8")]
    return [job.wait() for job in jobs]


@pytest.mark.slow
def test_a_worker_of_joblib_forks_its_jobs_too(tmp_path):
    with ProcessPoolExecutor(max_workers=1) as workers:
        assert workers.submit(in_a_worker, tmp_path).result(timeout=120) == [7, 8]


def test_the_server_has_the_libraries_and_has_begun_nothing():
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import lightning_modules.runtime.preload; import torch; "
    code += (
        "from pathlib import Path; print(*{p.read_text().strip() for p in Path('/proc/self/task').glob('*/comm')}); "
    )
    code += "print(torch.cuda.is_initialized(), len([t for t in sys.modules if t == 'mlflow']))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    names, rest = said.stdout.splitlines()
    # pyarrow's memory looks after its thread in a fork itself, and so does OpenBLAS, whose threads have Python's name.
    assert set(names.split()) <= {"python", "jemalloc_bg_thd"}
    assert rest == "False 1"


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"accelerator": "cpu", "devices": 1}, True),
        ({"accelerator": "cpu", "devices": 2}, False),
        ({"accelerator": "cpu", "devices": 1, "num_nodes": 2}, False),
        ({"accelerator": "cuda", "devices": 1}, False),
    ],
)
def test_ranks_and_devices_start_clean(trainer, expected):
    assert forks.possible(OmegaConf.create({"trainer": trainer})) == expected
