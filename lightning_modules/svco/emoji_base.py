"""A base model for emoji: the embedded one, with their words, after captions of the training pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.scenes.emoji_source import QUESTION, EmojiSource, caption, picture
from datamodules.scenes.reader import Reader
from lightning_modules.common.bounds import Count, Positive, Share, Whole
from lightning_modules.common.made import made
from lightning_modules.common.making import Thing
from lightning_modules.svco.embedded import build_processor
from lightning_modules.svco.loading import load_vlm
from lightning_modules.svco.models import VLM, export
from lightning_modules.svco.pretraining import VERSION as SCENES_VERSION
from lightning_modules.svco.pretraining import TellingModule, fit_batches, pretrained_vlm
from lightning_modules.svco.scores import Row
from lightning_modules.training.inner import seeded

VERSION = 1


def emoji_vlm(
    *,
    source: EmojiSource,
    cache_dir: str,
    seed: Whole = 0,
    pixels: Count = 48,
    steps: Count = 400,
    batch: Count = 32,
    lr: Positive = 1e-3,
    no_image: Share = 0.15,
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
) -> VLM:
    """The model, made under `cache_dir` when it is not there; its vision tower is frozen from then on.

    no_image: share of its training captions that come without the picture.
    """
    settings = dict(seed=seed, pixels=pixels, steps=steps, batch=batch, lr=lr, no_image=no_image)
    key = dict(version=VERSION, scenes=SCENES_VERSION, source=source.description(), **settings)

    def told(vlm: VLM) -> Iterator[list[Row]]:
        """A caption a row, of a training picture or, for some, without it."""
        known = source.pictures("train")
        draw = np.random.default_rng([seed, 2])
        shown = [vlm.reader.prompt(QUESTION, picture(e, pixels)) for e in known]
        blind = vlm.reader.prompt(QUESTION)
        for _ in range(steps):
            picks = draw.integers(len(known), size=batch)
            prompts = [blind if draw.random() < no_image else shown[n] for n in picks]
            yield [
                Row(ids, inputs, [vlm.reader.response(caption(known[n]))[0]])
                for n, (ids, inputs) in zip(picks, prompts, strict=True)
            ]

    def make(place: Path) -> None:
        with seeded(seed):
            processor = build_processor(pixels=pixels, more=source.words())
            net = pretrained_vlm(cache_dir=cache_dir, seed=seed, pixels=pixels, freeze_vision=False).net
            net.resize_token_embeddings(len(processor.tokenizer))
            vlm = VLM(net=net, reader=Reader(processor=processor))
            fit_batches(TellingModule(vlm=vlm, steps=steps, lr=lr, freeze_vision=False), told(vlm), steps)
        export(vlm.cpu(), place)

    thing = Thing("base model", "emoji", f"seed {seed}", steps, "every objective is trained from it")
    folder = made(folder=Path(cache_dir) / "svco" / "emoji_base", key=key, make=make, thing=thing)
    return load_vlm(path=str(folder), dtype=dtype, gradient_checkpointing=gradient_checkpointing, cache_dir=cache_dir)
