"""S-VCO against the released way, prompts tuned together against one by one, the finder, and the transfer matrix."""

import copy
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from datamodules.scenes.pairs import scene_pairs
from datamodules.scenes.reader import Reader
from datamodules.tasks import Language
from lightning_modules.prompt.backbones import LanguageBackbone
from lightning_modules.prompt.module import PromptTuning
from lightning_modules.prompt.prompts import Prompts
from lightning_modules.prompt.together import TunedTogether
from lightning_modules.svco.embedded import build_llava, build_processor
from lightning_modules.svco.losses import SCORES
from lightning_modules.svco.models import VLM, prepared
from lightning_modules.svco.scores import pair_scores
from lightning_modules.training.inner import inner_trainer, on_machine_of, seeded
from lightning_modules.transfer.stacked import stacked_accuracy
from tests.bench.prompt import stream
from tests.bench.svco import released_scores, step
from tests.gpu.place import Place, Row, compared, measured, repeated

TASK, LENGTH = "sentiment_film", 16


def llava(place: Place) -> tuple[VLM, list[Any]]:
    """LLaVA's image, token and word counts at a width of 2,048, in bf16 with LoRA; and pairs of scenes."""
    large = place.large
    pixels, patch = (336, 14) if large else (48, 8)
    processor = build_processor(pixels=pixels, patch=patch)
    sizes = dict(width=2048, vision_layers=24, layers=24, heads=16, positions=1024) if large else {}
    torch.manual_seed(0)
    with place.device:
        net = build_llava(
            words=32_000 if large else len(processor.tokenizer),
            image_token=processor.tokenizer.convert_tokens_to_ids("<image>"),
            pixels=pixels,
            patch=patch,
            **sizes,
        )
    net = net.to(torch.bfloat16).eval()
    vlm = prepared(net=net, reader=Reader(processor=processor), lora_rank=8, freeze_vision=True).to(place.device)
    pairs = scene_pairs(count=4 if large else 2, seed=0, split="train", prior=0.0, describe=1.0)
    return vlm, [vlm.reader.encode(pair, pair.images(pixels)) for pair in pairs]


def svco(place: Place) -> Iterator[Row]:
    name = "S-VCO step, released way / ours, LLaVA-shaped, bf16, LoRA"
    if find_spec("peft") is None:
        yield measured("svco", name, None, "x", why="not measured: peft is not installed")
        return
    place.forget_peak()
    vlm, pairs = llava(place)
    frozen = copy.deepcopy(vlm).requires_grad_(False)
    with torch.no_grad():
        cached = {k: v.clone() for k, v in pair_scores(vlm, pairs, SCORES).items()}

    def reference() -> dict[str, Tensor]:
        with torch.no_grad():
            return released_scores(frozen, pairs)

    def ours() -> Tensor:
        return step(lambda vlm, pairs: pair_scores(vlm, pairs, SCORES), vlm, pairs, lambda: cached)

    def released() -> Tensor:
        return step(released_scores, vlm, pairs, reference)

    times = 5 if place.large else 1
    fast, slow = repeated(place, ours, times=times), repeated(place, released, times=times)
    difference = abs(float(ours()) - float(released()))
    yield measured("svco", "S-VCO step, LLaVA-shaped, bf16, LoRA", 1 / fast, "steps/s")
    missed = (
        "4.4 times fewer tokens in the decoder; the host starts kernels more slowly than the device ends them (LOG.md)"
    )
    yield measured("svco", name, slow / fast, "x", goal=">= 6", peer="the released way", missed=missed)
    yield compared("svco: a step in bf16", steps=1, equal_to="the released way", difference=difference, limit=0.05)


def prompts(place: Place, folder: str, examples: int = 512) -> Prompts:
    """MiniLM's size with random weights: speed does not ask what it knows."""
    language = Language(train=examples, val=examples, test=examples)
    sizes = dict(hidden_size=384, layers=6, heads=12, ffn=1536) if place.large else {}
    spec = LanguageBackbone(language=language, cache=folder, random_init=True, **sizes)
    tuning = {"steps": 100, "batch": 32, "lr": 0.01, "warmup_steps": 0, "min_lr_ratio": 1.0, "weight_decay": 0.0}
    return Prompts(backbone=spec, source=language, tuning=tuning, cache=folder, length=LENGTH)


def together(place: Place) -> Iterator[Row]:
    """Equal in float32; timed in bf16 as the GPU trainers compute, against prompts as studies tune them by default."""
    number, steps = (32, 60) if place.large else (3, 2)
    with tempfile.TemporaryDirectory() as folder, place.taken():
        made = prompts(place, folder, 512 if place.large else 64)

        def modules(count: int) -> list[PromptTuning]:
            found = [PromptTuning(backbone=made.backbone, tuner=made.soft(seed=s), lr=0.01) for s in range(count)]
            for module in found:
                # Its weights are hashed there, which says nothing of the speed.
                module.on_fit_start = module.on_fit_end = lambda: None  # type: ignore[method-assign]
            return found

        def alone(count: int) -> list[Tensor]:
            found = modules(count)
            for seed, module in enumerate(found):
                with seeded(seed):
                    inner_trainer(max_steps=steps).fit(module, datamodule=made.datamodule(TASK, seed=seed))
            return [module.tuner.weight.detach() for module in found]

        def at_once() -> list[Tensor]:
            found = modules(number)
            training = TunedTogether(found, [made.datamodule(TASK, seed=seed) for seed in range(number)])
            inner_trainer(max_steps=steps).fit(training, range(steps))
            return [module.tuner.weight.detach() for module in found]

        apart, found = alone(2), at_once()
        difference = max(float((a - b).abs().max()) for a, b in zip(apart, found[:2], strict=True))
        with on_machine_of({**place.trainer(), "precision": "bf16-mixed"}):
            at_once()
            fast, slow = place.seconds(at_once), place.seconds(lambda: alone(number))
    case = f"prompt: {number} prompts in one batch"
    yield compared(case, steps=steps, equal_to="each alone", difference=difference, limit=1e-4)
    yield measured("prompt", f"{number} prompts in one batch / one by one", slow / fast, "x", goal=">= 10")


def finder(place: Place) -> Iterator[Row]:
    examples = 5120 if place.large else 64
    with tempfile.TemporaryDirectory() as folder, place.taken():
        made = prompts(place, folder, examples)
        drawn = torch.randn(LENGTH, made.backbone.width, generator=torch.Generator().manual_seed(0)).to(place.device)
        took = repeated(place, lambda: stream(made, drawn), times=1)
    yield measured("prompt", "finder at MiniLM size", 2 * examples / took, "examples/s")


def matrix(place: Place) -> Iterator[Row]:
    number = 14 if place.large else 2
    with tempfile.TemporaryDirectory() as folder, place.taken():
        made = prompts(place, folder, 512 if place.large else 32)
        draw = torch.Generator().manual_seed(0)
        drawn = torch.randn(number, LENGTH, made.backbone.width, generator=draw).to(place.device)
        data = made.data(TASK)
        # As many rows as fill the device; the default fits a CPU's cache.
        took = repeated(place, lambda: stacked_accuracy(made.backbone, data, drawn, rows=4096), times=1)
    yield measured("transfer", "matrix at MiniLM size", number / took, "cells/s")
