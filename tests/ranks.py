"""Runs a function on several gloo ranks, each a fresh process, and returns what every rank returned."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _rank(rank: int, ranks: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.save(function(rank, ranks, *args), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def run_ranks(function: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """[function(rank, ranks, *args) for each rank]; ranks=1 stays in this process, without a process group."""
    if ranks == 1:
        return [function(0, 1, *args)]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(ranks, folder, function, args), nprocs=ranks)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
