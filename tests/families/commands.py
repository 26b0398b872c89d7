"""The documented commands of S-VCO on a tiny model of a family, as a user gives them: a training, and one with LoRA.

Each runs main.py whole, to the export. What is exported has to load by transformers alone, trained but for its vision tower,
and to judge the held-out pairs as the run says. An adapter put on the base has to be the merged export. Where torchvision is
not to be had, the processor is handed to the command; nothing else is.
"""

import json
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

MAIN = Path(__file__).parents[2] / "main.py"
STEPS = 2
# Imported once, by the process that forks one for each family.
PRELOADED = ["torch", "pytorch_lightning", "transformers.modeling_utils", "mlflow", "hydra", "peft", "pandas"]
COMMAND = (
    f"experiment=svco/train model=vlm data=mvc trainer.max_steps={STEPS} trainer.val_check_interval={STEPS} seed=1 "
    "threads=1 logger=none data.global_batch=4 data.source.val=6 data.source.test=8 trainer.enable_progress_bar=false"
)


def whole(family: str) -> str:
    """`whole`, or why one of the commands is not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(target=_told, args=(family, folder))
        child.start()
        child.join()
        said = Path(folder) / "said"
        return said.read_text() if said.is_file() else f"ended with {child.exitcode}"


def _told(family: str, folder: str) -> None:
    place = Path(folder)
    log = os.open(place / "log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        walk(family, place)
        found = "whole"
    except BaseException as error:
        traceback.print_exc()
        lines = (place / "log").read_text().splitlines()
        errors = [line for line in lines if line.startswith("error")]
        found = " ".join((errors or [f"{type(error).__name__}: {error}"])[-1].split())[:300]
    (place / "said").write_text(found)


def walk(family: str, folder: Path) -> None:
    from transformers import AutoProcessor

    from tests.families.vlm import parts
    from tests.svco.test_mvc import many

    net, processor = parts(family)
    (folder / "pairs").mkdir()
    file = many(folder / "pairs")
    places = [f"paths.{name}={folder}/{name}" for name in ("cache", "runs", "tracking")]
    given = [*COMMAND.split(), f"model.path={folder}/model", f"data.source.file={file}", *places]
    # The part for videos, which would need torchvision, is not there to be saved.
    saved = [name for name in processor.get_attributes() if name != "video_processor"]
    with (
        mock.patch.object(AutoProcessor, "from_pretrained", return_value=processor),
        mock.patch.object(type(processor), "get_attributes", return_value=saved),
    ):
        net.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        check(net, command(folder, given), file, lora=False)
        check(net, command(folder, [*given, "model.lora_rank=2"]), file, lora=True)


def command(folder: Path, words: list[str]) -> Path:
    """The run's folder, once main.py has ended with 0."""
    before = set(folder.glob("runs/svco/train/*"))
    with mock.patch.object(sys, "argv", [str(MAIN), *words]):
        try:
            runpy.run_path(str(MAIN), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"exit code {end.code}") from None
    (run,) = set(folder.glob("runs/svco/train/*")) - before
    return run


def check(net: Any, run: Path, file: str, *, lora: bool) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    from datamodules.scenes import MVCSource
    from lightning_modules.svco.loading import load_vlm
    from lightning_modules.svco.models import TOWERS
    from lightning_modules.svco.module import CHOICE, paired_right
    from lightning_modules.svco.scores import pair_scores

    metrics = json.loads((run / "result.json").read_text())["metrics"]
    plain = AutoModelForImageTextToText.from_pretrained(run / "export")
    now, before = plain.state_dict(), net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], now[name])}
    assert now.keys() == before.keys() and changed, "nothing was trained"
    towers = {
        n
        for n in changed
        if any(t in n for t in TOWERS) and not any(j in n for j in ("projector", "merger", "connector"))
    }
    assert not towers, f"the frozen tower has changed: {sorted(towers)[0]}"
    loaded = load_vlm(path=str(run / "export"), cache_dir=None)
    pairs = MVCSource(file=file, val=6, test=8, seed=1).pairs("test")
    with torch.no_grad():
        scores = pair_scores(loaded, [loaded.reader.encode(pair, pair.images()) for pair in pairs], CHOICE)
        right = float(paired_right(scores).float().mean())
        assert abs(right - metrics["test/paired_accuracy"]) < 1e-6, f"{right} of the export, {metrics} of the run"
        if lora:
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(
                AutoModelForImageTextToText.from_pretrained(run.parents[3] / "model"), str(run / "export/adapter")
            )
            row = loaded.reader.conversation("?", "it is red .", pairs[0].images()[0])
            inputs = {"input_ids": row[0][None], "attention_mask": torch.ones_like(row[0][None]), **row[1]}
            apart = (adapted(**inputs).logits - plain(**inputs).logits).abs().max()
            assert apart < 1e-4 * plain(**inputs).logits.abs().max(), f"adapter and merged export differ by {apart:.1e}"
