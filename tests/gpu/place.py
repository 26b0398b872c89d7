"""Where a case of `make gpu` runs and how large it is: a GPU, or in its own test a small one on what there is."""

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from lightning_modules.training.inner import on_machine_of
from lightning_modules.training.throughput import clock
from tests.bench.results import row

Row = dict[str, Any]


class Place(NamedTuple):
    """trainer: what a Lightning trainer is told of the machine. name: of the device, for tables.

    large: the sizes that are worth measuring; else the smallest that run. processes: how many devices there are to share.
    at_once: how many commands may run beside each other.
    """

    name: str
    device: torch.device
    trainer: Callable[[], dict[str, Any]]
    large: bool
    processes: int
    at_once: int = 1

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """While it lasts, trainings within and studies run here."""
        with on_machine_of(self.trainer()):
            yield

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        return clock(self.device)

    def forget_peak(self) -> None:
        # A trainer and its module hold each other.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """None where the device does not tell."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None

    def seconds(self, work: Callable[[], Any]) -> float:
        start = self.now()
        work()
        return self.now() - start


CPU = Place("the CPU", torch.device("cpu"), lambda: {"accelerator": "cpu"}, large=False, processes=2)


def gpu() -> Place:
    return Place(
        name=torch.cuda.get_device_name(0),
        device=torch.device("cuda:0"),
        trainer=lambda: {"accelerator": "gpu", "devices": 1},
        large=True,
        processes=torch.cuda.device_count(),
        at_once=max(1, (os.cpu_count() or 1) // 2),
    )


def measured(system: str, name: str, value: float | None, unit: str, **more: str) -> Row:
    """A row of bench.json (`tests.bench.results.row`)."""
    return {"table": "bench", "system": system, **row(f"GPU: {name}", value, unit, **more)}


def compared(case: str, *, steps: int, equal_to: str, difference: float, limit: float) -> Row:
    """A row of machines.json."""
    told = {"case": case, "steps": steps, "equal_to": equal_to, "difference": difference, "ok": difference <= limit}
    return {"table": "machines", **told}


def repeated(place: Place, work: Callable[[], Any], *, times: int) -> float:
    """Seconds of one `work`, after one that is not counted."""
    work()
    start = place.now()
    for _ in range(times):
        work()
    return (place.now() - start) / times
