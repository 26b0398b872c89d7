"""Runs a function on several gloo ranks and returns what every rank returned. Ranks are processes that live on: starting
them costs more than any test does with them."""

import atexit
import io
import os
import queue
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 180
_pools: dict[int, "Ranks"] = {}


def _serve(rank: int, ranks: int, folder: str, tasks: Any, results: Any) -> None:
    torch.set_num_threads(1)
    # Lightning takes these processes for the trainer's ranks, and their group for its own: no port to be free.
    os.environ.update(WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), NODE_RANK="0")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    while True:
        function, args = tasks.get()
        try:
            content = io.BytesIO()
            torch.save(function(rank, ranks, *args), content)
            results.put((rank, content.getvalue(), ""))
        except Exception:
            results.put((rank, b"", traceback.format_exc()))


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
            try:
                rank, content, problem = self.results.get(timeout=TIMEOUT)
            except queue.Empty:
                raise AssertionError(
                    f"ranks {sorted(set(range(len(self.tasks))) - set(found))} do not answer"
                ) from None
            if problem:
                raise AssertionError(f"rank {rank}:\n{problem}")
            found[rank] = torch.load(io.BytesIO(content), weights_only=False)
        return [found[rank] for rank in sorted(found)]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.folder.cleanup()


def run_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """[function(rank, ranks, *args) for each rank]; ranks=1 stays in this process, without a process group."""
    if ranks == 1:
        return [function(0, 1, *args)]
    pool = _pools.setdefault(ranks, None) or Ranks(ranks)
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
