"""Training steps a second alone and beside a busy neighbour, by how OpenMP's threads wait (part of `make bench`).

Every way of waiting is a process of its own that steps when it is told to, so that they take turns within one run. It is
stopped meanwhile: the threads of one that spins always would take a core from the others.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from lightning_modules.runtime.openmp import ASLEEP, USERS
from tests.bench.results import row
from tests.results import PROJECT

# libgomp's own default is to spin 300,000 rounds.
WAYS = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "briefly": {"GOMP_SPINCOUNT": "10000"},
    "always": {"OMP_WAIT_POLICY": "ACTIVE"},
    "asleep": ASLEEP,
}
ROUNDS, ALONE_S, BESIDE_S = 3, 5.0, 15.0


def steps() -> Iterator[None]:
    """Forward, backward and AdamW of the embedded model at its default size, one step each."""
    import torch

    from tests.bench.moe import parts

    _, datamodule, module = parts()
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-3, fused=True)
    batch = next(iter(datamodule.train_dataloader()))
    while True:
        logits = module.model(input_ids=batch["input_ids"]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def work() -> None:
    """Answers each line, a number of seconds, with the steps a second that it made in them."""
    made = steps()
    next(made)
    print("ready", flush=True)
    for line in sys.stdin:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < float(line):
            next(made)
            count += 1
        print(count / (time.perf_counter() - began), flush=True)


class Worker:
    def __init__(self, way: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in (*USERS, "OMP_NUM_THREADS")}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.bench.busy"]
        self.process = subprocess.Popen(command, cwd=PROJECT, env={**clean, **way}, **pipes)  # type: ignore[call-overload]
        while self.process.stdout.readline() != "ready\n":
            assert self.process.poll() is None, "a worker of the bench died"
        self.process.send_signal(signal.SIGSTOP)

    def measure(self, seconds: float) -> float:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        rate = float(self.process.stdout.readline())
        self.process.send_signal(signal.SIGSTOP)
        return rate


def rates() -> tuple[dict[str, float], dict[str, float]]:
    """Steps a second, (alone, beside one busy process), the median of rounds, way by way."""
    workers = {name: Worker(way) for name, way in WAYS.items()}
    found: dict[bool, dict[str, list[float]]] = {busy: {name: [] for name in WAYS} for busy in (False, True)}
    try:
        for _ in range(ROUNDS):
            for busy, seconds in ((False, ALONE_S), (True, BESIDE_S)):
                neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
                try:
                    for name, worker in workers.items():
                        found[busy][name].append(worker.measure(seconds))
                finally:
                    if neighbour:
                        neighbour.kill()
                        neighbour.wait()
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    alone, beside = ({name: statistics.median(v) for name, v in found[busy].items()} for busy in (False, True))
    return alone, beside


def rows() -> list[dict[str, Any]]:
    """Of `rates`. Ours is the way that `openmp.settle` chooses: libgomp's own on an idle machine, asleep beside others."""
    alone, beside = rates()
    told_alone, told = (", ".join(f"{name} {found[name]:.2f}" for name in WAYS) for found in (alone, beside))
    return [
        row(
            "busy machine: steps/s, ours / before",
            beside["asleep"] / beside["default"],
            "x",
            goal=">= 5",
            peer="libgomp's default, one busy process on the same cores",
            why=f"steps/s: {told}",
        ),
        row(
            "idle machine: steps/s, ours / best",
            alone["default"] / max(alone.values()),
            "x",
            goal=">= 0.96",
            peer="the best of libgomp's default, which is ours, spinning briefly, always, and asleep",
            why=f"steps/s: {told_alone}",
        ),
    ]


if __name__ == "__main__":
    work()
