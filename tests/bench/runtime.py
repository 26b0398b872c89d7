"""What the machinery costs (part of `make bench`): `python -m tests.bench.runtime [PART ...] [--dry]`.

Parts: `machinery` (logging, checkpoints), `commands` (until an error, a first step, a sweep's next job) and `busy` (steps
beside a neighbour), each under five minutes, all three by default. `hundred`, a sweep of a hundred jobs of which five are
killed, takes nine. `--suite FILE` writes the row of the tests from what `make test O=--junit-xml=FILE` left there.
`--dry` writes nothing, and does not mind a busy machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.bench import busy, commands, hundred, suite
from tests.bench.results import Quiet, row, show, write

METRICS = {f"train/metric_{i}": float(i) for i in range(5)}
STEPS, ROUNDS = 200, 3


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
        # As in a run at work, whose courier has MLflow by now.
        assert made.run_id
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


def machinery(folder: Path) -> list[dict[str, Any]]:
    ours, theirs = logging_cost(folder / "log")
    saved, plain, size = checkpoint_cost(folder)
    peer = "Lightning's TorchCheckpointIO, no flush, no checksum"
    return [
        row("training waits for a batch of five metrics", 1000 * ours, "ms"),
        row("the same, share of a 0.18 s step of `small`", 100 * ours / 0.18, "%", goal="<= 1"),
        row(
            "logging, ours / theirs",
            ours / theirs,
            "x",
            goal="< 1",
            peer="Lightning's MLFlowLogger, as lightning-hydra-template has it",
        ),
        row("a checkpoint like that of `small`", saved, "s", why=f"{size:.0f} MiB"),
        row("checkpoint, ours / theirs", saved / plain, "x", peer=peer),
    ]


PARTS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "machinery": machinery,
    "commands": commands.rows,
    "busy": lambda _: busy.rows(),
    "hundred": hundred.rows,
}
EVERY_TIME = ("machinery", "commands", "busy")
# Rows of this system by what measures them: what another part has written stays, and what none of them writes goes.
NAMES = {
    "machinery": (
        "training waits for a batch of five metrics",
        "the same, share of a 0.18 s step of `small`",
        "logging, ours / theirs",
        "a checkpoint like that of `small`",
        "checkpoint, ours / theirs",
    ),
    "commands": (
        "command to first step",
        "command to first step / importing everything",
        '"Already done"',
        *commands.WRONG,
        "sweep: seconds beyond each job's own",
    ),
    "busy": ("busy machine: steps/s, ours / before", "idle machine: steps/s, ours / best"),
    "hundred": hundred.NAMES,
    "suite": (suite.NAME,),
}


def measured(part: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        found = PARTS[part](Path(folder))
    assert tuple(r["row"] for r in found) == NAMES[part], f"NAMES of {part} is not what it measures"
    return found


def asked(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What the machinery costs; rows of docs/results/bench.json.")
    # argparse of Python 3.11 would hold no part at all against `choices`.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all but hundred")
    parser.add_argument("--suite", type=Path, help="JUnit's XML of a whole `make test`")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args(arguments)
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{wrong[0]}: no such part; expected one of {', '.join(PARTS)}.")
    return given


def keep(part: str, rows: list[dict[str, Any]], *, command: str) -> None:
    """Write a part's rows; those of the other parts stay."""
    others = {name for other, names in NAMES.items() if other != part for name in names}
    write("runtime", rows, command=command, others=others)


def main() -> None:
    given = asked(sys.argv[1:])
    if given.suite:
        rows = [suite.row_of(given.suite)]
        if given.dry:
            return show("runtime", rows)
        return keep("suite", rows, command="make test")
    # A part is written when it is done: a stop, or a busy minute, costs no other.
    for part in given.parts or EVERY_TIME:
        quiet = Quiet()
        rows = measured(part)
        if given.dry:
            show("runtime", rows)
            print(f"Others took up to {quiet.worst():.2f} cores; nothing is written.")
            continue
        quiet.insist()
        keep(part, rows, command=f"python -m tests.bench.runtime {part}" if given.parts else "make bench")


if __name__ == "__main__":
    main()
