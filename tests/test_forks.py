"""A forked command is to its test what a started one is: child, signals, exit codes, command line, environment."""

import os
import signal
import sys

import psutil
import pytest

from tests import forks

# Stands in for main.py: says what it finds, and starts itself once when told so.
SAYS = """
import os, subprocess, sys, time
import psutil
me = psutil.Process()
print(os.getcwd(), os.getpgid(0) == os.getpid(), os.environ.get("FACET_X"), sys.argv[1:], me.cmdline()[1:2], flush=True)
print("torch" in sys.modules, "lightning_modules" in sys.modules, os.getppid(), file=sys.stderr, flush=True)
if "start" in sys.argv:
    job = subprocess.Popen([sys.executable, sys.argv[0], "sleep"], stdout=subprocess.DEVNULL, start_new_session=True)
    print(job.pid, [child.pid for child in me.children()], flush=True)
    sys.exit(job.wait() % 256)
if "rank" in sys.argv:
    print(sys.modules["lightning_utilities.core.rank_zero"].rank_zero_only.rank, "torch" in sys.modules)
    sys.exit()
if "end" in sys.argv:
    import atexit, threading
    atexit.register(print, "last")
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    ends = {"code": SystemExit(300), "nothing": SystemExit(), "words": SystemExit("why"), "error": ValueError("why")}
    raise ends[sys.argv[-1]]
if "sleep" in sys.argv:
    time.sleep(60)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """main.py of a server of its own."""
    path = tmp_path_factory.mktemp("forks") / "main.py"
    path.write_text(SAYS)
    before = forks.MAIN, forks.LIBRARIES, forks._server
    forks.MAIN, forks.LIBRARIES, forks._server = (
        str(path),
        "psutil numpy torch lightning_utilities.core.rank_zero",
        None,
    )
    yield path
    forks._server.socket.close()
    forks.MAIN, forks.LIBRARIES, forks._server = before


def begin(script, *words, **settings):
    return forks.Popen([sys.executable, str(script), *words], stdout=-1, stderr=-1, text=True, **settings)


@pytest.mark.parametrize("session", [False, True])
def test_it_is_what_was_asked_for(script, tmp_path, session):
    settings = {"cwd": tmp_path, "env": {**os.environ, "FACET_X": "here"}, "start_new_session": session}
    process = begin(script, "a=1", "b", **settings)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert out == f"{tmp_path} {session} here ['a=1', 'b'] ['{script}']\n"
    assert err == f"True False {os.getpid()}\n", "libraries are imported, Facet is not, and we are its parent"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_reach_it(script, number):
    process = begin(script, "sleep")
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=60) == -number


@pytest.mark.parametrize("way", ["code", "nothing", "words", "error"])
def test_it_ends_as_python_does(script, way):
    """Threads first, then what was registered, all of it printed; with the same code and words."""
    ends = []
    for really in (False, True):
        process = begin(script, "end", way, really=really)
        out, err = process.communicate(timeout=60)
        ends.append((process.returncode, out.splitlines()[-2:], err.splitlines()[1:][-1:]))
    assert ends[0][1] == ["thread", "last"]
    assert ends[0] == ends[1]
    assert ends[0][0] == {"code": 300 % 256, "nothing": 0}.get(way, 1)


def test_a_rank_is_forked_and_knows_its_number(script):
    for number in ("0", "1"):
        process = begin(script, "rank", env={**os.environ, "LOCAL_RANK": number, "MASTER_PORT": "29500"})
        assert process.communicate(timeout=60)[0].splitlines()[-1] == f"{number} True"


def test_text_is_run_as_python_runs_it(script, tmp_path):
    (tmp_path / "beside.py").write_text("word = 'here'")
    text = "import beside, sys; print(beside.word, __name__, sys.argv, 'torch' in sys.modules); sys.exit(5)"
    said = []
    for really in (False, True):
        done = forks.run([sys.executable, "-c", text, "a"], timeout=60, cwd=tmp_path, really=really)
        assert done.returncode == 5
        said.append(done.stdout)
    assert said == [f"here __main__ ['-c', 'a'] {there}\n" for there in (True, False)]


def test_a_module_is_run_as_python_runs_it(script, tmp_path):
    (tmp_path / "beside.py").write_text("import sys; print(__name__, sys.argv, 'torch' in sys.modules); sys.exit(5)")
    said = []
    for really in (False, True):
        done = forks.run([sys.executable, "-m", "beside", "a"], timeout=60, cwd=tmp_path, really=really)
        assert done.returncode == 5
        said.append(done.stdout)
    assert said == [f"__main__ [{str(tmp_path / 'beside.py')!r}, 'a'] {there}\n" for there in (True, False)]


def test_what_it_starts_is_its_child_and_outlives_it(script):
    process = begin(script, "start")
    process.stdout.readline()
    job, children = process.stdout.readline().split(" ", 1)
    job = psutil.Process(int(job))
    assert job.pid in eval(children)
    assert [word for word in job.cmdline() if word] == [sys.executable, str(script), "sleep"]
    process.kill()
    process.wait()
    assert job.is_running() and job.status() != psutil.STATUS_ZOMBIE
    job.kill()


def test_an_environment_that_imports_may_read_is_for_a_process_that_is_really_started(script):
    for name in ("FACET_X", "LOCAL_RANK"):
        process = begin(script, env={**os.environ, name: "3"})
        assert process.communicate(timeout=60)[1].startswith("True"), name
    other = {**os.environ, "OMP_NUM_THREADS": "3"}
    with pytest.raises(AssertionError, match=r"\['OMP_NUM_THREADS'\] may be read by an import: really=True"):
        begin(script, env=other)
    process = begin(script, really=True, env=other)
    assert process.communicate(timeout=60)[1].startswith("False")


def test_with_a_second_thread_nothing_is_forked(script, tmp_path, monkeypatch):
    (tmp_path / "threaded.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(forks, "LIBRARIES", "numpy threaded")
    monkeypatch.setattr(forks, "_server", None)
    with pytest.raises(AssertionError, match="what it forked, has died"):
        begin(script)
