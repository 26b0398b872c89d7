"""The embedded base model, pretrained on rendered scenes: it sees well, and has learned to guess instead.

The vision tower learns every attribute of unbiased scenes, then is frozen. Projector and decoder learn texts about
scenes that follow the prior, so that guessing from the place is nearly always right. Shape legend: B samples.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.scenes.pairs import generator, training_text
from datamodules.scenes.reader import Reader
from datamodules.scenes.render import render
from datamodules.scenes.world import VALUES, Scene, draw_scene
from lightning_modules.common.bounds import Count, Positive, Share, Whole
from lightning_modules.common.made import made
from lightning_modules.common.making import Thing
from lightning_modules.common.optimizer import adamw_with_schedule
from lightning_modules.svco.embedded import build_llava, build_processor
from lightning_modules.svco.loading import load_vlm
from lightning_modules.svco.models import VLM, export, prepared
from lightning_modules.svco.scores import Row, scores_of
from lightning_modules.training.inner import inner_trainer, seeded

# Raised when what is made of the same settings changes.
VERSION = 4


class SeeingModule(pl.LightningModule):
    """The vision tower names every attribute of a scene from its mean patch feature; the heads are thrown away."""

    def __init__(self, *, vlm: VLM, steps: int, lr: float) -> None:
        super().__init__()
        self.vlm, self.steps, self.lr = vlm, steps, lr
        width = vlm.core.config.vision_config.hidden_size
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, len(v))) for v in VALUES.values()
        )

    def logits(self, pixels: Tensor) -> list[Tensor]:
        features_BIH = self.vlm.core.model.vision_tower(pixels).last_hidden_state[:, 1:]
        return [head(features_BIH.mean(1)) for head in self.heads]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, labels_BA = batch
        losses = [nn.functional.cross_entropy(x, labels_BA[:, i]) for i, x in enumerate(self.logits(pixels))]
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> dict[str, Any]:
        trained = nn.ModuleList([self.vlm.core.model.vision_tower, self.heads])
        return adamw_with_schedule(module=trained, total_steps=self.steps, lr=self.lr, weight_decay=0.01)


class TellingModule(pl.LightningModule):
    """Next-token likelihood of responses about scenes, with the image and, for some, without it."""

    def __init__(self, *, vlm: VLM, steps: int, lr: float, freeze_vision: bool = True) -> None:
        super().__init__()
        self.vlm, self.steps, self.lr = vlm, steps, lr
        if freeze_vision:
            vlm.core.model.vision_tower.requires_grad_(False)

    def transfer_batch_to_device(self, batch: list[Row], device: torch.device, dataloader_idx: int) -> list[Row]:
        return batch

    def training_step(self, rows: list[Row], batch_idx: int) -> Tensor:
        with_image = [row for row in rows if "pixel_values" in row.inputs]
        without = [row for row in rows if "pixel_values" not in row.inputs]
        scores = [scores_of(self.vlm, part) for part in (with_image, without) if part]
        return -torch.cat(scores).sum() / sum(len(row.responses[0]) for row in rows)

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw_with_schedule(module=self.vlm, total_steps=self.steps, lr=self.lr, weight_decay=0.01)


def pretrained_vlm(
    *,
    cache_dir: str,
    seed: Whole = 0,
    prior: Share = 1.0,
    vision_steps: Count = 900,
    steps: Count = 300,
    scenes: Count = 5000,
    batch: Count = 48,
    vision_lr: Positive = 1e-3,
    lr: Positive = 2e-3,
    no_image: Share = 0.15,
    width: Count = 128,
    vision_layers: Count = 3,
    layers: Count = 3,
    heads: Count = 4,
    pixels: Count = 48,
    lora_rank: Whole = 0,
    freeze_vision: bool = True,
    max_response: Whole = 128,
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
) -> VLM:
    """The embedded model, made under `cache_dir` when it is not there (about two minutes on one core)."""
    sizes = dict(width=width, vision_layers=vision_layers, layers=layers, heads=heads, pixels=pixels)
    settings: dict[str, Any] = dict(prior=prior, vision_steps=vision_steps, steps=steps, scenes=scenes, batch=batch)
    settings |= dict(vision_lr=vision_lr, lr=lr, no_image=no_image)

    def make(place: Path) -> None:
        # A run that has to make its base first must go on with the random state of one that finds it.
        with seeded(seed):
            vlm, report = pretrain(sizes=sizes, seed=seed, **settings)
        export(vlm.cpu(), place)
        (place / "pretraining.json").write_text(json.dumps(report, indent=1))

    folder = made(
        folder=Path(cache_dir) / "svco" / "base",
        key={"version": VERSION, "seed": seed, **settings, **sizes},
        make=make,
        thing=Thing("base model", "scenes", f"seed {seed}", vision_steps + steps, "every objective is trained from it"),
    )
    return load_vlm(
        path=str(folder),
        lora_rank=lora_rank,
        freeze_vision=freeze_vision,
        max_response=max_response,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        cache_dir=cache_dir,
    )


def pretrain(
    *,
    sizes: dict[str, int],
    seed: int,
    prior: float,
    vision_steps: int,
    steps: int,
    scenes: int,
    batch: int,
    vision_lr: float,
    lr: float,
    no_image: float,
) -> tuple[VLM, dict[str, float]]:
    """(model, accuracy of the vision tower per attribute on scenes it was not trained on)."""
    processor = build_processor(pixels=sizes["pixels"])
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    net = build_llava(words=len(processor.tokenizer), image_token=image_token, **sizes)
    vlm = prepared(net=net, reader=Reader(processor=processor), lora_rank=0, freeze_vision=False)
    draw = generator(seed, "vision")
    plain = [draw_scene(draw, prior=0.0) for _ in range(scenes + 300)]
    pixels, labels = _pixels(vlm, plain, sizes["pixels"]), torch.tensor([_labels(s) for s in plain])
    order = np.random.default_rng([seed, 1])
    seeing = SeeingModule(vlm=vlm, steps=vision_steps, lr=vision_lr)
    picks = [order.integers(scenes, size=batch) for _ in range(vision_steps)]
    fit_batches(seeing, ((pixels[i], labels[i]) for i in map(torch.from_numpy, picks)), vision_steps)
    with torch.no_grad():
        guesses = [guess.cpu() for guess in seeing.eval().logits(pixels[scenes:].to(vlm.device))]
    report = {
        f"vision_{name}": float((guess.argmax(1) == labels[scenes:, i]).float().mean())
        for i, (name, guess) in enumerate(zip(VALUES, guesses, strict=True))
    }
    draw = generator(seed, "pretrain")
    biased = [draw_scene(draw, prior=prior) for _ in range(scenes)]
    pixels = _pixels(vlm, biased, sizes["pixels"])
    side = sizes["pixels"] // 8

    def told() -> Iterator[list[Row]]:
        for _ in range(steps):
            rows = []
            for number in draw.integers(scenes, size=batch):
                question, answer = training_text(biased[number], draw)
                blind = draw.random() < no_image
                text = vlm.reader.prompt_text(question, image=not blind).replace("<image>", "<image> " * side**2)
                ids = vlm.reader.tokenizer(text, return_tensors="pt").input_ids[0]
                inputs = {} if blind else {"pixel_values": pixels[number][None]}
                rows.append(Row(ids, inputs, [vlm.reader.response(answer)[0]]))
            yield rows

    fit_batches(TellingModule(vlm=vlm, steps=steps, lr=lr), told(), steps)
    return vlm, report


def fit_batches(module: pl.LightningModule, batches: Iterator[Any], steps: int) -> None:
    """Each batch is made when it is wanted: all of them take memory, and time where a training is cut short."""
    # One base serves runs of every precision.
    trainer = inner_trainer(max_steps=steps, gradient_clip_val=1.0, precision="32-true")
    trainer.fit(module, train_dataloaders=batches)


def _labels(scene: Scene) -> list[int]:
    return [values.index(getattr(scene, name)) for name, values in VALUES.items()]


def _pixels(vlm: VLM, scenes: list[Scene], size: int) -> Tensor:
    images = [render(scene, pixels=size) for scene in scenes]
    return torch.as_tensor(np.stack(vlm.reader.processor.image_processor(images)["pixel_values"]))
