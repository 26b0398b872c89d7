"""Starts main.py for tests without its imports: a process that has imported what takes seconds forks one a command.

`Popen` is subprocess's. A command `python main.py ...`, `python -c TEXT ...` or `python -m MODULE ...` is forked, with the
arguments, folder, environment, streams and session that it asks for, and becomes a child of the process that asked:
signals, exit codes and `children()` mean what they always do. What it starts itself, a sweep its jobs, is forked likewise.
Only libraries have been imported, nothing of Facet, and nothing was begun with them: the process has one thread.

Really started is whatever else one starts. A command whose environment differs in what an import may have read, but for
what Lightning tells a rank, is refused to a test that does not ask for a start. A forked process ends as Python does,
without taking down what was imported. Forked processes share the order of sets (PYTHONHASHSEED), so a test that compares
runs has one of them really started.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

from tests import charts

PROJECT = Path(__file__).parents[1]
MAIN = str(PROJECT / "main.py")
# What a training imports before its first step, in its own order.
LIBRARIES = "hydra torch psutil pytorch_lightning transformers.modeling_utils pydantic.main mlflow pandas"
LIBRARIES += " mlflow.store.tracking.sqlalchemy_store mlflow.store.tracking.sqlalchemy_workspace_store"
LIBRARIES += " sqlalchemy.dialects.sqlite mlflow.store.db.trace_analytics_backfill_75868b020152 PIL.Image vl_convert"
LIBRARIES += " matplotlib.backends.backend_agg matplotlib.pyplot tabulate rich.markdown tokenizers safetensors.torch"
# These are read when they are used; any other may be read by an import.
READ_LATE = ("FACET_", "PYTEST_", "PYTHONPATH", "HYDRA_FULL_ERROR", "PL_", "MLFLOW_HTTP_", "MLFLOW_ENABLE_", "HF_TOKEN")
# What main.py sets before its imports, which in a fork are there already: what it starts may be forked all the same.
READ_LATE += ("OMP_WAIT_POLICY", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_")
# So are these, but a test that sets one leaves it as it was (conftest.py). A tracking server reads its own when it begins;
# scikit-learn sets the others for Intel's OpenMP when a search imports it, and torch's is GNU's.
OF_SERVERS = ("MLFLOW_SERVER_", "_MLFLOW_", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
OF_SEARCHES = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
# What Lightning's launcher tells a rank, and the imports that read it, whose mark is set again in the fork (`become`).
RANK = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
READ_RANK = ("lightning_utilities.core.rank_zero", "torchmetrics.utilities.prints")
ROOM = 16384  # bytes of the command line that `ps` shows
MINDS_FORKS = "jemalloc_bg_thd"  # pyarrow's memory: it looks after its thread in a forked process itself
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


class Server(NamedTuple):
    """Where forks are asked for. environment: what its imports saw; added: what they set."""

    socket: socket.socket
    environment: dict[str, str]
    added: dict[str, str]
    lock: Any


_server: Server | None = None
_is_fork = False


class Popen(subprocess.Popen):
    """As subprocess's own. really: start the command, fork nothing."""

    def __init__(self, *args: Any, really: bool = False, **settings: Any) -> None:
        self._really = really
        super().__init__(*args, **settings)

    def _execute_child(self, *given: Any) -> None:
        asked = inspect.signature(super()._execute_child).bind(*given).arguments
        streams = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        streams = [number if fd == -1 else fd for number, fd in enumerate(streams)]
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        if self._really or not may_fork(asked, streams, environment):
            super()._execute_child(*given)
            return
        request = {
            "words": list(map(str, asked["args"])),
            "cwd": str(asked["cwd"] or os.getcwd()),
            "environment": environment,
            "session": asked["start_new_session"],
        }
        self.pid = ask(request, streams)
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))


def run(command: list[str], *, timeout: float, really: bool = False, **settings: Any) -> Any:
    """subprocess.run with captured text."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    with Popen(command, really=really, **settings) as process:
        try:
            texts = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *texts)


def may_fork(asked: dict[str, Any], streams: list[int], environment: dict[str, str]) -> bool:
    if asked["shell"] or asked["preexec_fn"] or asked["process_group"] != -1 or sys.platform != "linux":
        return False
    words = list(map(str, asked["args"])) if isinstance(asked["args"], list) else []
    if words[:1] != [sys.executable] or not (words[1:2] == [MAIN] or (words[1:2] in (["-c"], ["-m"]) and words[2:])):
        return False
    if any(map(os.isatty, streams[1:])):
        return False
    seen = server()
    here = {**seen.added, **environment}
    differing = {n for n in here.keys() | seen.environment.keys() if here.get(n) != seen.environment.get(n)}
    differing -= {n for n in differing if n.startswith((*READ_LATE, *OF_SERVERS, *OF_SEARCHES))}
    read = {n for n in differing if n not in seen.added and n not in RANK}
    # A test that means it says so; what a run starts is its own affair.
    assert _is_fork or not read, f"{sorted(read)} may be read by an import: really=True has it read"
    return not read


def ask(request: dict[str, Any], streams: list[int]) -> int:
    """Process number of a new child of this process."""
    data, (to, _, _, lock) = json.dumps(request).encode(), server()
    with lock, adopting():
        socket.send_fds(to, [len(data).to_bytes(8, "big")], streams)
        to.sendall(data)
        answer = exactly(to, 8)
    assert any(answer), "the process that forks, or what it forked, has died"
    return int.from_bytes(answer, "big")


@contextlib.contextmanager
def adopting() -> Any:
    """What loses its parent among our descendants becomes our child."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(SUBREAPER, 1, 0, 0, 0)
    yield
    prctl(SUBREAPER, 0, 0, 0, 0)


def exactly(from_: socket.socket, number: int) -> bytes:
    data = b""
    while len(data) < number and (part := from_.recv(number - len(data))):
        data += part
    return data


def server() -> Server:
    """This process's own, started when it is first needed; it ends with this process."""
    global _server
    if _server is None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.forks", str(theirs.fileno()), MAIN, LIBRARIES, "-" * ROOM]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.Popen(command, cwd=PROJECT, pass_fds=[theirs.fileno()], **pipes)
        theirs.close()
        added = json.loads(exactly(ours, int.from_bytes(exactly(ours, 8), "big")))
        _server = Server(ours, dict(os.environ), added, threading.Lock())
    return _server


def serve(requests: socket.socket) -> dict[str, Any]:
    """Forks at every request; returns in the forked process alone, with what it is to be."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the others of our group; we end with who asks
        signal.signal(number, signal.SIG_IGN)
    while True:
        head, streams, *_ = socket.recv_fds(requests, 8, 3)
        if not head:
            os._exit(0)
        request = json.loads(exactly(requests, int.from_bytes(head, "big")))
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        assert len(names) - names.count(MINDS_FORKS) == 1, f"a fork takes only one thread along, and there are {names}"
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == between:  # until it is the child of who asked
                time.sleep(0.0005)
            os.close(reading)
            requests.close()
            return {**request, "streams": streams, "ready": writing}
        for fd in (writing, *streams):
            os.close(fd)
        os.waitpid(between, 0)
        requests.sendall(os.read(reading, 8) or bytes(8))
        os.close(reading)


def become(request: dict[str, Any], added: dict[str, str], usual: list[str]) -> None:
    """Be the process that was asked for, up to its first line."""
    global _server, _is_fork
    _is_fork = True
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request["session"]:
        os.setsid()
    for number, fd in enumerate(request["streams"]):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update({**added, **request["environment"]})
    os.environ.setdefault("FACET_FORKS", "0")  # a sweep begins its jobs by Popen, which forks them here
    own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    _, script, *rest = request["words"]
    first = {"-c": "", "-m": request["cwd"]}.get(script, str(Path(MAIN).parent))
    sys.argv, sys.path[:] = [script, *rest], [first, *own, *usual]
    sys.modules["numpy"].random.seed()
    for module in filter(None, map(sys.modules.get, READ_RANK)):
        module.rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))
    retitle(request["words"])
    os.write(request["ready"], os.getpid().to_bytes(8, "big"))
    os.close(request["ready"])
    # For what this one will start: forked before anything has begun in it.
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        retitle([sys.executable, "-m", "tests.forks"])
        become(serve(theirs), added, usual)
        return
    theirs.close()
    _server = Server(ours, dict(os.environ), added, threading.Lock())
    subprocess.Popen = Popen  # type: ignore[misc]


def retitle(words: list[str]) -> None:
    """What /proc says of our command line: it is read where the kernel put it when this process was started."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = "\0".join(words).encode()[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))


def begin() -> None:
    global MAIN
    MAIN, libraries = sys.argv[2:4]
    requests, before, usual = socket.socket(fileno=int(sys.argv[1])), dict(os.environ), sys.path[1:]
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    usual = [path for path in usual if path not in own]
    # quiet.py sets it before these imports, which read it once.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    for name in libraries.split():
        importlib.import_module(name)
    if "vl_convert" in sys.modules:
        charts.put_together_once()
    added = {name: value for name, value in os.environ.items() if before.get(name) != value}
    data = json.dumps(added).encode()
    requests.sendall(len(data).to_bytes(8, "big") + data)
    gc.collect()
    gc.freeze()
    become(serve(requests), added, usual)
    try:
        if sys.argv[0] == "-c":
            text = sys.argv.pop(1)
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(text, "<string>", "exec"), vars(main))
        elif sys.argv[0] == "-m":
            runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(MAIN, run_name="__main__")
    except SystemExit as asked:
        leave(asked.code)
    leave(0)


def leave(code: Any) -> None:
    """End as Python does, but for taking down what was imported: half a second, most of it copies of shared memory."""
    if not isinstance(code, (int, type(None))):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    begin()
