"""What the machinery costs (part of `make bench`): logging, checkpoints, the start of a run, a job of a sweep."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.bench import busy
from tests.bench.results import Quiet, row, write
from tests.results import PROJECT

METRICS = {f"train/metric_{i}": float(i) for i in range(5)}
STEPS, ROUNDS = 200, 3
# Jobs of the long sweep; how much one more takes is what it has more than the short one.
JOBS = 8
SEEDS = ",".join(map(str, range(1, JOBS + 1)))


def seconds_per_call(logger: Any) -> float:
    began = time.perf_counter()
    for step in range(STEPS):
        logger.log_metrics(METRICS, step)
    return (time.perf_counter() - began) / STEPS


def logging_cost(folder: Path) -> tuple[float, float]:
    """Seconds that training waits for one batch of five metrics: (our tracker, Lightning's MLFlowLogger), in turns."""
    from pytorch_lightning.loggers import MLFlowLogger

    from lightning_modules.runtime.tracking import Tracker

    uri = f"sqlite:///{folder}/mlflow.db"
    plain = MLFlowLogger("bench", tracking_uri=uri, artifact_location=f"{folder}/artifacts")
    assert plain.run_id
    ours, theirs = [], []
    for number in range(ROUNDS):
        made = Tracker(
            folder=folder / str(number), uri=uri, experiment="bench", name="x", artifact_location=None, tags={}
        )
        ours.append(seconds_per_call(made))
        made.end("FINISHED")
        theirs.append(seconds_per_call(plain))
    return statistics.median(ours), statistics.median(theirs)


def checkpoint_cost(folder: Path) -> tuple[float, float, float]:
    """Seconds of (our checkpoint with flush and checksum, Lightning's own), and MiB, for a model like `small`."""
    from pytorch_lightning.plugins.io import TorchCheckpointIO

    from lightning_modules.training.checkpoints import CheckedCheckpoints

    content = {"weights": [torch.randn(1_000_000) for _ in range(18)]}
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(ROUNDS + 2):
        for name, io in (("ours", CheckedCheckpoints()), ("theirs", TorchCheckpointIO())):
            began = time.perf_counter()
            io.save_checkpoint(content, str(folder / name / "last.ckpt"))
            times[name].append(time.perf_counter() - began)
    size = (folder / "ours" / "last.ckpt").stat().st_size / 2**20
    return statistics.median(times["ours"]), statistics.median(times["theirs"]), size


def run(folder: Path, *arguments: str) -> float:
    """Seconds of a whole `main.py`."""
    flags = [a for a in arguments if a.startswith("-")]
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking")] + [f"paths.cache={folder.parent}/cache"]
    settings = [a for a in arguments if a not in flags]
    command = [sys.executable, str(PROJECT / "main.py"), *flags, "debug=smoke", *places, *settings]
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - began


def first_step(folder: Path) -> float:
    """Seconds from the command to the first logged training step."""
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking")] + [f"paths.cache={folder.parent}/cache"]
    folder.mkdir(parents=True)
    command = [sys.executable, str(PROJECT / "main.py"), "debug=smoke", "trainer.log_every_n_steps=1", *places]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any("train/loss" in p.read_text() for p in folder.glob("runs/**/tracking.jsonl")):
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.wait()
    return seconds


def refused(folder: Path) -> float:
    """Seconds until a misspelt key is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    command = [sys.executable, str(PROJECT / "main.py"), "debug=smoke", "model.layer=3"]
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 2
    return time.perf_counter() - began


IMPORTS = "import torch, pytorch_lightning, transformers, hydra, mlflow; from transformers import Qwen3MoeForCausalLM"


def imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def main() -> None:
    quiet = Quiet()
    alone, beside = busy.rates()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = logging_cost(folder / "log")
        saved, plain, size = checkpoint_cost(folder)
        run(folder / "warm")
        begin = [(first_step(folder / f"first{i}"), imports()) for i in range(ROUNDS)]
        start, bare = (statistics.median(values) for values in zip(*begin, strict=True))
        single = statistics.median(run(folder / f"single{i}") for i in range(ROUNDS))
        pair = statistics.median(run(folder / f"sweep{i}", "-m", "seed=1,2") for i in range(ROUNDS))
        many = statistics.median(run(folder / f"long{i}", "-m", f"seed={SEEDS}") for i in range(ROUNDS))
        again = statistics.median(run(folder / "single0") for _ in range(ROUNDS))
        wrong = statistics.median(refused(folder / "wrong") for _ in range(ROUNDS))
        # A job's own work: a run without its imports, of which a sweep has one for all its jobs.
        own = single - bare
    peer_of_sweep = "a job's work: a single run less importing the libraries"
    peer_of_wait = "libgomp's default, one busy process on the same cores"
    peer = "Lightning's MLFlowLogger, as lightning-hydra-template has it"
    rows = [
        row("training waits for a batch of five metrics", 1000 * ours, "ms"),
        row("the same, share of a 0.18 s step of `small`", 100 * ours / 0.18, "%", goal="<= 1"),
        row("logging, ours / theirs", ours / theirs, "x", goal="< 1", peer=peer),
        row(f"a checkpoint of {size:.0f} MiB", saved, "s"),
        row(
            "checkpoint, ours / theirs", saved / plain, "x", peer="Lightning's TorchCheckpointIO, no flush, no checksum"
        ),
        row("seconds until a misspelt key is refused", wrong, "s", goal="<= 1.5"),
        row('"Already done"', again, "s", goal="<= 1.5"),
        row("command to first step", start, "s", goal="<= 4"),
        row("command to first step / imports alone", start / bare, "x", peer="importing the libraries"),
        row(
            "sweep: seconds beyond each job's own",
            (many - pair) / (JOBS - 2) - own,
            "s",
            goal="<= 1",
            peer=peer_of_sweep,
        ),
        row(
            "busy machine: steps/s, ours / before",
            beside["ours"] / beside["before"],
            "x",
            goal=">= 5",
            peer=peer_of_wait,
        ),
        row(
            "idle machine: steps/s, ours / best",
            alone["ours"] / max(alone.values()),
            "x",
            goal=">= 0.96",
            peer="the best of spinning always, by default, ours and never",
        ),
    ]
    quiet.insist()
    write("runtime", rows, command="make bench")


if __name__ == "__main__":
    main()
