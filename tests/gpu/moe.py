"""Speed of a mixture of experts in bf16, in every scope, eager and compiled; and what the global scope costs."""

import statistics
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from lightning_modules.moe.callbacks.aux_free_bias import AuxFreeBias
from lightning_modules.moe.callbacks.expert_frequency_sync import MODES, ExpertFrequencySync
from lightning_modules.moe.models import build_moe, count_parameters
from lightning_modules.moe.module import MoELM
from lightning_modules.training.inner import inner_trainer
from tests.gpu.place import Place, Row, measured
from tests.moe.toy import ToyData
from tests.results import PROJECT

# Dense bf16 products a second, of the makers' data sheets.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
SCOPES = ("micro", *MODES, "aux_free")
MAIN = "ranks"
NARROW = "at these widths products and attention alone take longer than the goal leaves (LOG.md)"


class Text(ToyData):
    """Seeded random tokens: speed does not ask what they say."""

    def __init__(self, *, words: int, length: int, sequences: int, steps: int) -> None:
        super().__init__(sequences=sequences, steps=steps)
        self.words, self.length = words, length

    def train_batch(self, index: int, epoch: int = 0) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(index)
        text = torch.randint(self.words, (self.sequences, self.length + 1), generator=draw)
        return {"input_ids": text[:, :-1], "targets": text[:, 1:]}


class Sizes:
    """Of the model, a global batch, and a run: steps that are not counted, then steps that are."""

    def __init__(self, place: Place) -> None:
        self.device, self.large = place.device, (large := place.large)
        names = ("parts/moe", "base" if large else "tiny")
        config = OmegaConf.merge(*(OmegaConf.load(PROJECT / "conf" / "model" / f"{name}.yaml") for name in names))
        self.model: Any = OmegaConf.to_container(config)
        self.words = 4096 if large else 64
        # Micro-batches that fill the device, and several of them, as the scopes differ in what they add over those.
        self.length, self.micro, self.accumulate = (1024, 32, 2) if large else (16, 2, 2)
        self.warm, self.steps = (4, 12) if large else (1, 2)
        self.segments, self.segment = (9, 10) if large else (3, 2)

    def build(self, scope: str) -> Any:
        family = "deepseek_v3" if scope == "aux_free" else "qwen3_moe"
        settings = {k: v for k, v in self.model.items() if k not in ("defaults", "_target_", "vocab_size", "family")}
        if self.large:
            settings["device"] = str(self.device)
        torch.manual_seed(0)
        return build_moe(vocab_size=self.words, family=family, **settings)

    def data(self, steps: int) -> Text:
        return Text(words=self.words, length=self.length, sequences=self.micro, steps=steps)

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.accumulate * self.micro * self.length

    def flops(self, model: Any) -> float:
        """Of a token's forward and backward: two operations a weight it meets, thrice; causal attention beside."""
        config = model.config
        heads = config.num_attention_heads * getattr(
            config, "head_dim", config.hidden_size // config.num_attention_heads
        )
        return 6 * count_parameters(model)["active"] + 6 * config.num_hidden_layers * heads * self.length


class Clock(pl.Callback):
    """When the steps `at` began, once all before them were done."""

    def __init__(self, place: Place, at: set[int]) -> None:
        self.place, self.at, self.begins = place, at, dict[int, float]()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step in self.at and trainer.global_step not in self.begins:
            self.begins[trainer.global_step] = self.place.now()

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.begins[trainer.global_step] = self.place.now()


def train(place: Place, sizes: Sizes, module: pl.LightningModule, callbacks: list[Any], steps: int) -> None:
    settings = dict(callbacks=callbacks, precision="bf16-mixed", gradient_clip_val=1.0, **place.trainer())
    trainer = inner_trainer(max_steps=steps, accumulate_grad_batches=sizes.accumulate, **settings)
    trainer.fit(module, datamodule=sizes.data(steps))


def module_of(sizes: Sizes, scope: str, *, compile: bool = False) -> tuple[MoELM, list[Any]]:
    """A module and the callbacks of its scope."""
    optimizer = {"lr": 1e-3, "warmup_steps": 2}
    module = MoELM(model=sizes.build(scope), micro_batch=sizes.micro, optimizer=optimizer, compile=compile)
    if scope == "aux_free":
        return module, [AuxFreeBias()]
    return module, [] if scope == "micro" else [ExpertFrequencySync(mode=scope)]


def speed(place: Place, scope: str, *, compile: bool = False) -> tuple[float, float, float | None]:
    """(tokens a second, FLOP a second, peak GiB) of one scope."""
    sizes = Sizes(place)
    module, callbacks = module_of(sizes, scope, compile=compile)
    last = sizes.warm + sizes.steps
    clock = Clock(place, {sizes.warm})
    place.forget_peak()
    train(place, sizes, module, [clock, *callbacks], last)
    took = clock.begins[last] - clock.begins[sizes.warm]
    tokens = sizes.steps * sizes.tokens / took
    return tokens, tokens * sizes.flops(module.model), place.peak_gib()


def throughput(place: Place) -> Iterator[Row]:
    for scope in SCOPES:
        yield from rows(place, scope, speed(place, scope), "")


def compiled(place: Place) -> Iterator[Row]:
    yield from rows(place, MAIN, speed(place, MAIN, compile=True), ", compiled")


def rows(place: Place, scope: str, found: tuple[float, float, float | None], how: str) -> Iterator[Row]:
    tokens, flops, peak = found
    where = ("" if scope == MAIN else f", {scope}") + how
    most = next((value for name, value in PEAKS.items() if name in place.name), None)
    yield measured("moe", f"tokens/s at base{where}", tokens, "tokens/s")
    share = flops / most if most else None
    unknown = "" if most else f"the bf16 peak of {place.name} is not known"
    yield measured(
        "moe", f"share of the bf16 peak at base{where}", share, "", goal=">= 0.35", why=unknown, missed=NARROW
    )
    yield measured("moe", f"peak memory at base{where}", peak, "GiB", why="" if peak else f"{place.name} does not tell")


def scope_cost(place: Place) -> Iterator[Row]:
    """The scope changes every few steps of one run; each segment is compared with the one before it."""

    sizes = Sizes(place)

    class Alternating(ExpertFrequencySync):
        def active(self, trainer: pl.Trainer) -> bool:
            return super().active(trainer) and (trainer.global_step // sizes.segment) % 2 == 1

    module, _ = module_of(sizes, "micro")
    clock = Clock(place, {sizes.segment * n for n in range(sizes.segments)})
    train(place, sizes, module, [clock, Alternating()], sizes.segment * sizes.segments)
    begins = [clock.begins[sizes.segment * n] for n in range(sizes.segments + 1)]
    took = [after - before for before, after in pairwise(begins)][1:]
    # The first segment warmed up; then a segment in the global scope and one in the other take turns.
    ratios = [took[n] / took[n + 1] for n in range(0, len(took) - 1, 2)]
    percent = 100 * (statistics.median(ratios) - 1)
    peer = "micro-batch scope in the same run"
    yield measured("moe", "overhead of global scope at base", percent, "%", goal="<= 1", peer=peer)
