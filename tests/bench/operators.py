"""Where a step of the embedded mixture goes on the CPU (part of `make bench`): share of the matrix peak, time by operator.

Alone, `python -m tests.bench.operators` prints its rows and writes nothing.
"""

import json
import statistics
import time
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

from lightning_modules.runtime.memory import Counter
from tests.bench.results import row, show

WARM_UP, STEPS, SIZE, PRODUCTS = 5, 12, 2048, 6
# First the kind whose words an operator's name begins with.
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm"),
    "attention": ("_scaled_dot_product", "_flash_attention"),
    "AdamW and clipping": ("_fused_adamw", "_foreach", "linalg_vector_norm", "clamp"),
    "gathers, sorts and copies": (
        "index",
        "gather",
        "scatter",
        "sort",
        "cat",
        "copy_",
        "clone",
        "fill_",
        "zero_",
        "embedding",
    ),
    "softmax and other sums": (
        "_softmax",
        "_log_softmax",
        "logsumexp",
        "sum",
        "mean",
        "exp",
        "topk",
        "bincount",
        "cumsum",
    ),
    "other arithmetic": ("",),
}


def kind_of(operator: str) -> str | None:
    """None of what is no operator of torch's: a step's own marks, Lightning's."""
    kind, found, name = operator.partition("aten::")
    return next(kind for kind, words in KINDS.items() if name.startswith(words)) if found and not kind else None


class Watch(pl.Callback):
    """Profiles the last `STEPS` steps, after as many that are timed without a profiler."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP + STEPS:
            self.profiler.start()

    def on_train_end(self, *_: Any) -> None:
        self.profiler.stop()


def peak() -> float:
    """FLOP/s of the cores' best of some products of large float32 matrices."""
    one, other = torch.randn(2, SIZE, SIZE)
    seconds = []
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        one @ other
        seconds.append(time.perf_counter() - began)
    return 2 * SIZE**3 / min(seconds)


def measured() -> list[dict[str, Any]]:
    from tests.bench.moe import lightning_steps, parts

    cfg, datamodule, module = parts(f"trainer.max_steps={WARM_UP + 2 * STEPS}")
    counter, watch, best = Counter(module, at=1), Watch(), peak()
    begins = lightning_steps(cfg, datamodule, module, extra=(counter, watch))
    best = max(best, peak())
    plain = [b - a for a, b in pairwise(begins[WARM_UP : WARM_UP + STEPS + 1])]
    profiled = (begins[-1] - begins[WARM_UP + STEPS]) / (STEPS - 1)
    a_step = statistics.median(plain)
    flops = counter.counted.flops * cfg.trainer.accumulate_grad_batches
    told = f"{flops / 1e9:.1f} GFLOP in {1000 * a_step:.0f} ms; the peak is {best / 1e9:.0f} GFLOP/s"
    peer = f"products of two matrices of {SIZE} x {SIZE}, {torch.get_num_threads()} threads"
    rows = [row("embedded step: share of the matrix peak", flops / a_step / best, "", peer=peer, why=told)]
    spent: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for event in watch.profiler.key_averages():
        if kind := kind_of(event.key):
            spent[kind][event.key.removeprefix("aten::")] = event.self_cpu_time_total / 1e6 / STEPS / profiled
    for kind, shares in spent.items():
        most = sorted(shares, key=lambda name: -shares[name])[:4]
        why = ", ".join(f"{name} {100 * shares[name]:.1f}" for name in most)
        rows.append(row(f"embedded step: {kind}", 100 * sum(shares.values()), "%", why=why))
    rest = 1 - sum(sum(shares.values()) for shares in spent.values())
    return [
        *rows,
        row("embedded step: between operators", 100 * rest, "%", why="Python, Lightning, data, the profiler"),
    ]


if __name__ == "__main__":
    rows = measured()
    show("moe", rows)
    print(json.dumps({"rows": rows}))
