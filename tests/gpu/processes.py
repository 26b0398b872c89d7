"""DDP and FSDP2 on all devices of this machine, by the command a person types, against one of them."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.gpu.place import Place, Row, compared, measured
from tests.results import PROJECT

STEPS, LIMIT_S = 20, 240
PLAIN = ["debug=smoke", "logger=none", "look.page=false", "trainer.precision=32-true", f"trainer.max_steps={STEPS}"]
PLAIN += ["trainer.enable_progress_bar=false", "model.experts_implementation=grouped_mm", "export=false"]


def metrics(folder: Path, *overrides: str) -> dict[str, float]:
    """What a run of these says; RuntimeError with its last lines when it fails."""
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking", "cache")]
    command = [sys.executable, str(PROJECT / "main.py"), *PLAIN, *places, *overrides]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=LIMIT_S, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"main.py {' '.join(overrides)}: {(done.stderr.strip() or done.stdout)[-500:]}")
    (result,) = folder.glob("runs/**/result.json")
    return json.loads(result.read_text())["metrics"]


def processes(place: Place) -> Iterator[Row]:
    count = place.processes
    if count < 2:
        for way in ("DDP", "FSDP2"):
            yield measured("moe", f"{way} on several", None, "", why=f"not measured: one {place.name}")
        return
    large = place.large
    # A global batch that every number of devices up to sixteen divides.
    batch = ["data.micro_batch=1", f"data.global_batch={count * max(1, 16 // count)}"]
    ways = {
        "one": ["trainer=gpu"] if large else [],
        "DDP": [f"trainer={'ddp_gpu' if large else 'ddp_cpu'}", f"trainer.devices={count}"],
        "FSDP2": ["trainer=fsdp", f"trainer.devices={count}", *([] if large else ["trainer.accelerator=cpu"])],
    }
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for way, overrides in ways.items():
            own = Path(folder, way)
            own.mkdir()
            found[way] = metrics(own, *batch, *overrides)
    for way in ("DDP", "FSDP2"):
        difference = abs(found[way]["val/ppl"] - found["one"]["val/ppl"]) / found["one"]["val/ppl"]
        yield compared(
            f"moe: {way} by the command line, perplexity, relative", steps=STEPS, equal_to="one process",
            difference=difference, limit=1e-4,
        )  # fmt: skip
