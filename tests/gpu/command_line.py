"""What a person types: a run or study of every system on a GPU against the CPU; DDP and FSDP2 against one of them."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.gpu.place import Place, Row, compared
from tests.results import PROJECT

STEPS, LIMIT_S = 20, 240
PLAIN = ["logger=none", "look.page=false", "trainer.precision=32-true"]
MOE = ["debug=smoke", f"trainer.max_steps={STEPS}", "trainer.enable_progress_bar=false", "export=false"]
# A global batch that every number of devices up to sixteen divides.
MOE += ["data.micro_batch=1", "data.global_batch=16"]
PROMPT = [f"language.{split}=48" for split in ("train", "val", "test")]
PROMPT += [f"backbone.{size}" for size in ("hidden_size=16", "layers=2", "heads=2", "ffn=24", "sentences=64")]
PROMPT += ["backbone.steps=4", "backbone.batch=8", "tuning.steps=4", "tuning.batch=8", "prompt.length=4"]
STUDY = ["study.trials=1", "study.tasks=[sentiment_film,number_film]"]
VLM = [f"model.{size}" for size in ("vision_steps=3", "steps=3", "scenes=40", "batch=8", "width=32", "heads=2")]
VLM += ["model.layers=1", "model.vision_layers=1", "data.source.train=32", "data.source.val=6", "data.source.test=6"]
VLM += ["trainer.max_steps=4", "trainer.val_check_interval=2", "data.global_batch=4"]
VLM += ["callbacks.scene_evaluation.scenes_each=4", "callbacks.scene_evaluation.pairs=6"]
# What is typed; the number that is compared; how far apart it may be: accuracies of 48 texts jump.
SYSTEMS: dict[str, tuple[list[str], str, float]] = {
    "moe": (MOE, "val/ppl", 1e-3),
    "prompt/tune": (["experiment=prompt/tune", *PROMPT, "trainer.val_check_interval=2"], "test/loss", 1e-3),
    "prompt/skill_neurons": (
        ["experiment=prompt/skill_neurons", *PROMPT, *STUDY, "study.permutations=2"], "prompt/best_neuron", 0.1
    ),
    "prompt/transfer": (
        ["experiment=prompt/transfer", *PROMPT, *STUDY, "study.controls=[]"], "prompt/relative_random", 0.1
    ),
    "svco/train": (["experiment=svco/train", "threads=1", *VLM], "svco/ppl_text", 1e-3),
}  # fmt: skip


def metrics(folder: Path, *overrides: str) -> dict[str, float]:
    """What a run of these says; RuntimeError with its last lines when it fails."""
    folder.mkdir()
    places = [f"paths.{name}={folder}/{name}" for name in ("runs", "tracking", "cache")]
    command = [sys.executable, str(PROJECT / "main.py"), *PLAIN, *places, *overrides]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=LIMIT_S, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"main.py {' '.join(overrides)}: {(done.stderr.strip() or done.stdout)[-1500:]}")
    (result,) = folder.glob("runs/**/result.json")
    return json.loads(result.read_text())["metrics"]


def side_by_side(commands: Mapping[Any, Sequence[str]], *, at_once: int) -> dict[Any, dict[str, float]]:
    """The metrics of each, which run as many at a time as asked for."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(at_once) as pool:
        waiting = {
            key: pool.submit(metrics, Path(folder, str(number)), *overrides)
            for number, (key, overrides) in enumerate(commands.items())
        }
        return {key: future.result() for key, future in waiting.items()}


def machine(place: Place) -> str:
    """The trainer's name."""
    return "trainer=gpu" if place.large else "trainer=cpu"


def systems(place: Place) -> Iterator[Row]:
    ways = {"here": [machine(place)], "the CPU": []}
    commands = {(name, way): [*ways[way], *given] for name, (given, _, _) in SYSTEMS.items() for way in ways}
    found = side_by_side(commands, at_once=place.at_once)
    for name, (_, metric, limit) in SYSTEMS.items():
        here, there = (found[name, way][metric] for way in ways)
        yield compared(
            f"{name} by the command line, {metric}, relative", steps=STEPS if name == "moe" else 4, equal_to="the CPU",
            difference=abs(here - there) / abs(there), limit=limit,
        )  # fmt: skip


def processes(place: Place) -> Iterator[Row]:
    """On one GPU a process group of one, over NCCL as any other."""
    count, large = place.processes, place.large
    ways = {
        "one": [machine(place)],
        "DDP": [f"trainer={'ddp_gpu' if large else 'ddp_cpu'}", f"trainer.devices={count}"],
        "FSDP2": ["trainer=fsdp", f"trainer.devices={count}", *([] if large else ["trainer.accelerator=cpu"])],
    }
    # One after the other: each looks for a port that is free.
    found = side_by_side({way: [*given, *MOE] for way, given in ways.items()}, at_once=1)
    for way in ("DDP", "FSDP2"):
        difference = abs(found[way]["val/ppl"] - found["one"]["val/ppl"]) / found["one"]["val/ppl"]
        many = "1 process" if count == 1 else f"{count} processes"
        yield compared(
            f"moe: {way} on {many} by the command line, val/ppl, relative", steps=STEPS, equal_to="no process group",
            difference=difference, limit=1e-4,
        )  # fmt: skip
