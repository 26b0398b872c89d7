"""The first losses of every system on the device against the CPU's, in float32; and a resume against no interruption."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from datamodules.scenes.datamodule import PairsDataModule, SceneSource
from lightning_modules.moe.callbacks.aux_free_bias import AuxFreeBias
from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.module import SVCO
from lightning_modules.training.checkpoints import CheckedCheckpoints, newest_valid
from lightning_modules.training.inner import inner_trainer, seeded
from lightning_modules.training.resume_point import ResumePoint
from lightning_modules.transfer.projector import Projector, ProjectorTraining
from tests import golden
from tests.gpu.place import CPU, Place, Row, compared
from tests.moe.toy import fit, tiny_model
from tests.prompt import toy
from tests.svco.toy import tiny_vlm

STEPS, LIMIT = 20, 1e-4
TASKS = ("sentiment_film", "sentiment_shop")


def steps(place: Place) -> int:
    return STEPS if place.large else 3


def moe(place: Place, count: int, scope: str, **settings: Any) -> list[float]:
    callbacks = [*settings.pop("callbacks", ())]
    callbacks += {"micro": [], "aux_free": [AuxFreeBias()]}.get(scope) or (
        [] if scope == "micro" else [ExpertFrequencySync(mode=scope)]
    )
    # Its strategy says which device; without one it is the CPU.
    strategy = None if place.device.type == "cpu" else place.trainer().get("strategy", "auto")
    # Moving to the pretended device unties tied weights, which moving to a real one does not.
    model = tiny_model("deepseek_v3" if scope == "aux_free" else "qwen3_moe", tie_embeddings=False)
    curve, _, _ = fit(
        callbacks=callbacks, model=model, strategy=strategy, steps=count, accumulate=2, weight=1.0, **settings
    )
    return curve.loss


def trained(module: Any, count: int, **data: Any) -> list[float]:
    seen = golden.Losses()
    inner_trainer(max_steps=count, callbacks=[seen], gradient_clip_val=1.0).fit(module, **data)
    return seen.values


def prompt(place: Place, count: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder, place.taken(), seeded(0):
        made = toy.prompts(Path(folder))
        module = PromptTuning(backbone=made.backbone, tuner=made.soft(seed=0), lr=0.02)
        return trained(module, count, datamodule=made.datamodule(TASKS[0], seed=0))


def transfer(place: Place, count: int) -> list[float]:
    draw = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, place.taken(), seeded(0):
        made = toy.prompts(Path(folder))
        sources_NPH, targets_NPG = (torch.randn(2, 4, width, generator=draw) for width in (24, 16))
        module = ProjectorTraining(
            projector=Projector(length=4, source=24, target=16, variant="flat"),
            backbone=made.backbone,
            prompts_NPH=sources_NPH,
            targets_NPG=targets_NPG,
            data=[made.data(task) for task in TASKS],
            objective="task",
        )
        numbers = torch.utils.data.DataLoader(torch.arange(count), batch_size=None, generator=torch.Generator())
        return trained(module, count, train_dataloaders=numbers)


def svco(place: Place, count: int) -> list[float]:
    four = dict.fromkeys(("attend", "reject", "attend_mirror", "reject_mirror"), 0.1)
    with place.taken(), seeded(0):
        module = SVCO(model=tiny_vlm(), objective=Objective(betas=four), optimizer={"lr": 3e-3, "warmup_steps": 1})
        data = PairsDataModule(source=SceneSource(train=16, val=6, test=6), global_batch=4, eval_batch=4)
        return trained(module, count, datamodule=data)


SYSTEMS: dict[str, Callable[[Place, int], list[float]]] = {
    "moe: micro": lambda place, count: moe(place, count, "micro"),
    "moe: ranks": lambda place, count: moe(place, count, "ranks"),
    "moe: buffer": lambda place, count: moe(place, count, "buffer"),
    "moe: two_pass": lambda place, count: moe(place, count, "two_pass"),
    "moe: aux_free": lambda place, count: moe(place, count, "aux_free"),
    "prompt: SoftPrompt": prompt,
    "transfer: projector": transfer,
    "svco: svco": svco,
}


def losses(place: Place) -> Iterator[Row]:
    """Nothing is rounded to TF32: Lightning and torch leave float32 products whole."""
    count = steps(place)
    for name, train in SYSTEMS.items():
        expected, found = train(CPU, count), train(place, count)
        difference = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        yield compared(name, steps=count, equal_to="the CPU", difference=difference, limit=LIMIT)


def resume(place: Place) -> Iterator[Row]:
    """Bitwise: the losses after a checkpoint in the middle."""
    count = steps(place)
    with tempfile.TemporaryDirectory() as folder:
        told = dict(plugins=[CheckedCheckpoints()])
        point = ResumePoint(folder=folder, every_n_steps=count // 2 + 1)
        whole = moe(place, count, "buffer", callbacks=[point], **told)
        again = ResumePoint(folder=f"{folder}/again", every_n_steps=count)
        rest = moe(place, count, "buffer", callbacks=[again], resume=newest_valid(Path(folder)), **told)
    assert 0 < len(rest) < len(whole)
    difference = max(abs(a - b) for a, b in zip(rest, whole[-len(rest) :], strict=True))
    yield compared(
        "moe: resume in the middle", steps=count, equal_to="no interruption", difference=difference, limit=0.0
    )
