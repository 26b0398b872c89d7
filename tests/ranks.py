"""Runs a function on several gloo ranks and returns what every rank returned. Ranks are processes that live on: starting
them costs more than any test does with them."""

import atexit
import contextlib
import faulthandler
import io
import os
import queue
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 180  # seconds without an answer
_pools: dict[int, "Ranks"] = {}


def _serve(rank: int, ranks: int, folder: str, tasks: Any, results: Any) -> None:
    torch.set_num_threads(1)
    # Lightning takes these processes for the trainer's ranks, and their group for its own: no port to be free.
    os.environ.update(WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), NODE_RANK="0")
    stacks = open(Path(folder) / f"rank{rank}.txt", "w")  # noqa: SIM115, for as long as the process lives
    faulthandler.dump_traceback_later(TIMEOUT - 20, file=stacks)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    while True:
        faulthandler.cancel_dump_traceback_later()
        function, args = tasks.get()
        faulthandler.dump_traceback_later(TIMEOUT - 20, file=stacks)
        try:
            content = io.BytesIO()
            torch.save(function(rank, ranks, *args), content)
            results.put((rank, content.getvalue(), ""))
        except Exception:
            results.put((rank, b"", traceback.format_exc()))


class SilentRanksError(AssertionError):
    """Ranks that neither answer nor say why; with what each of them was doing."""


class Ranks:
    """`ranks` processes in one process group."""

    def __init__(self, ranks: int) -> None:
        context = mp.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.tasks, self.results = [context.Queue() for _ in range(ranks)], context.Queue()
        arguments = [(r, ranks, self.folder.name, self.tasks[r], self.results) for r in range(ranks)]
        self.processes = [context.Process(target=_serve, args=a, daemon=True) for a in arguments]
        for process in self.processes:
            process.start()

    def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        for tasks in self.tasks:
            tasks.put((function, args))
        found: dict[int, Any] = {}
        while len(found) < len(self.processes):
            rank, content, problem = self.answer(found)
            if problem:
                raise AssertionError(f"rank {rank}:\n{problem}")
            found[rank] = torch.load(io.BytesIO(content), weights_only=False)
        return [found[rank] for rank in sorted(found)]

    def answer(self, found: dict[int, Any]) -> Any:
        """The next one. SilentRanksError when none comes in time, or never will."""
        for _ in range(TIMEOUT):
            dead = not all(process.is_alive() for process in self.processes)
            with contextlib.suppress(queue.Empty):
                return self.results.get(timeout=1)
            if dead:
                break
        raise SilentRanksError(self.silence(found))

    def silence(self, found: dict[int, Any]) -> str:
        told = [f"ranks {sorted(set(range(len(self.tasks))) - set(found))} do not answer"]
        for rank, process in enumerate(self.processes):
            state = "lives" if process.is_alive() else f"ended with {process.exitcode}"
            file = Path(self.folder.name) / f"rank{rank}.txt"
            told.append(f"rank {rank} {state}:\n{file.read_text() if file.is_file() else ''}")
        return "\n".join(told)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
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
