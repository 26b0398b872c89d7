"""Runs a function on several gloo ranks and returns what every rank returned. Ranks are forked from a process that has the
libraries (tests/forks.py) and live on: starting them costs more than any test does with them."""

import atexit
import contextlib
import faulthandler
import io
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests import forks

TIMEOUT = 180  # seconds without an answer
_pools: dict[int, "Ranks"] = {}


def serve(rank: int, ranks: int, folder: str) -> None:
    """What a rank does: the functions that come in by its standard input, which is a socket, until it is closed."""
    torch.set_num_threads(1)
    # Lightning takes these processes for the trainer's ranks, and their group for its own: no port to be free.
    os.environ.update(WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), NODE_RANK="0")
    stacks = open(Path(folder) / f"rank{rank}.txt", "w")  # noqa: SIM115, for as long as the process lives
    faulthandler.dump_traceback_later(TIMEOUT - 20, file=stacks)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    asked = connection.Connection(os.dup(0))
    while True:
        faulthandler.cancel_dump_traceback_later()
        try:
            function, args = asked.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(TIMEOUT - 20, file=stacks)
        try:
            content = io.BytesIO()
            torch.save(function(rank, ranks, *args), content)
            asked.send((content.getvalue(), ""))
        except Exception:
            asked.send((b"", traceback.format_exc()))


class SilentRanksError(AssertionError):
    """Ranks that neither answer nor say why; with what each of them was doing."""


class Ranks:
    """`ranks` processes in one process group."""

    def __init__(self, ranks: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.processes, self.answers = [], []
        for rank in range(ranks):
            ours, theirs = connection.Pipe()
            text = f"from tests import ranks; ranks.serve({rank}, {ranks}, {self.folder.name!r})"
            command = [sys.executable, "-c", text]
            self.processes.append(forks.Popen(command, cwd=forks.PROJECT, stdin=theirs.fileno()))
            self.answers.append(ours)
            theirs.close()

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        for answers in self.answers:
            answers.send((function, args))
        found: dict[int, Any] = {}
        while len(found) < len(self.processes):
            rank, content, problem = self.answer(found)
            if problem:
                raise AssertionError(f"rank {rank}:\n{problem}")
            found[rank] = torch.load(io.BytesIO(content), weights_only=False)
        return [found[rank] for rank in sorted(found)]

    def answer(self, found: dict[int, Any]) -> tuple[int, bytes, str]:
        """The next one. SilentRanksError when none comes in time, or never will."""
        waiting = [answers for rank, answers in enumerate(self.answers) if rank not in found]
        for ready in connection.wait(waiting, timeout=TIMEOUT):
            with contextlib.suppress(EOFError, ConnectionError):
                return (self.answers.index(ready), *ready.recv())
        raise SilentRanksError(self.silence(found))

    def silence(self, found: dict[int, Any]) -> str:
        told = [f"ranks {sorted(set(range(len(self.processes))) - set(found))} do not answer"]
        for rank, process in enumerate(self.processes):
            state = "lives" if process.poll() is None else f"ended with {process.returncode}"
            file = Path(self.folder.name) / f"rank{rank}.txt"
            told.append(f"rank {rank} {state}:\n{file.read_text() if file.is_file() else ''}")
        return "\n".join(told)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.folder.cleanup()


def run_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """[function(rank, ranks, *args) for each rank]; ranks=1 stays in this process, without a process group."""
    if ranks == 1:
        return [function(0, 1, *args)]
    try:
        return _run(function, ranks, args)
    except SilentRanksError as silence:
        # Somebody killed them, or they wait for each other. It is told, with the stacks of all ranks, and tried once more.
        warnings.warn(f"{function.__name__}: {silence}", RuntimeWarning, stacklevel=2)
        return _run(function, ranks, args)


def _run(function: Callable[..., Any], ranks: int, args: tuple[Any, ...]) -> list[Any]:
    pool = _pools.get(ranks) or Ranks(ranks)
    _pools[ranks] = pool
    try:
        return pool.run(function, args)
    except BaseException:
        # After a fault the ranks may wait for each other: the next test gets new ones.
        _pools.pop(ranks).close()
        raise


@atexit.register
def _close_all() -> None:
    for pool in _pools.values():
        pool.close()
