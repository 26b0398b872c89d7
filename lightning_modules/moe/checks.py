"""What of a MoE config does not go together, each check naming the keys at odds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from datamodules.order import LAYOUTS
from lightning_modules.common.bounds import Count, Weight, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.common.files import is_path
from lightning_modules.moe.families import DTYPES, LOADED_DTYPES, check_shape
from lightning_modules.runtime.devices import processes


def balance(
    *,
    weight: Weight,
    block: Count | None,
    micro_weight: Weight,
    z_weight: Weight,
    layer_reduction: str,
    from_step: Whole,
    until_step: Count | None,
) -> None:
    """The keys of `balance`, whose values the module and the callbacks take."""


BYTES = 257

OPTIONS = {
    "moe": {
        "model": ("tiny", "small", "base", "paper_3b", "pretrained"),
        "data": ("corpus", "corpus_folder", "corpus_hub", "synthetic"),
        "debug": ("smoke",),
    }
}

PLAIN: dict[str, Callable[..., Any]] = {"balance": balance}


def layout_is_known(cfg: DictConfig) -> Iterator[str]:
    check_choice("data.layout", cfg.data.layout, LAYOUTS)
    check_choice("balance.layer_reduction", cfg.balance.layer_reduction, ("mean", "sum"))
    yield from ()


def block_divides(cfg: DictConfig) -> Iterator[str]:
    block, micro = cfg.balance.block, cfg.data.micro_batch
    if block is None:
        return
    forward = cfg.data.global_batch // (cfg.trainer.accumulate_grad_batches * processes(cfg))
    if max(block, micro) % min(block, micro) or forward % block:
        fitting = [b for b in range(1, forward + 1) if forward % b == 0 and max(b, micro) % min(b, micro) == 0]
        near = min(fitting, key=lambda b: abs(b - block))
        yield (
            f"balance.block is {block} sequences; expected a divisor or a multiple of data.micro_batch ({micro}) that "
            f"divides the {forward} sequences of one forward; the nearest is {near}."
        )


def shape_fits(cfg: DictConfig) -> Iterator[str]:
    names = ("family", "experts", "top_k", "hidden_size", "heads", "kv_heads")
    check_shape(**{name: cfg.model[name] for name in names})
    yield from ()


def weights_have_a_type(cfg: DictConfig) -> Iterator[str]:
    check_choice("model.dtype", cfg.model.dtype, LOADED_DTYPES if "pretrained" in cfg.model else DTYPES)
    yield from ()


def text_can_be_cut(cfg: DictConfig) -> Iterator[str]:
    if cfg.data.seq_len < 2:
        yield f"data.seq_len is {cfg.data.seq_len}; expected at least 2 tokens: zero-shot choice compares continuations."
    if cfg.data.tokenizer is None and cfg.data.vocab_size < BYTES:
        yield f"data.vocab_size is {cfg.data.vocab_size}; expected at least {BYTES}: every byte, and the end of a text."


def bias_has_a_router(cfg: DictConfig) -> Iterator[str]:
    if cfg.callbacks.get("aux_free_bias") and cfg.model.family != "deepseek_v3":
        yield (
            f"balance=aux_free needs routers with a correction bias, which model.family={cfg.model.family} has not; "
            "the nearest is model.family=deepseek_v3."
        )


def experts_have_the_precision(cfg: DictConfig) -> Iterator[str]:
    if cfg.model.experts_implementation == "grouped_mm" and str(cfg.trainer.precision).startswith("64"):
        yield (
            f"trainer.precision is {cfg.trainer.precision}, which model.experts_implementation=grouped_mm lacks; the "
            "nearest is model.experts_implementation=sorted."
        )


def can_be_compiled(cfg: DictConfig) -> Iterator[str]:
    if not cfg.module.compile:
        return
    if cfg.model.experts_implementation == "sorted" and cfg.trainer.accelerator == "cpu":
        yield (
            "module.compile is true, but on the CPU model.experts_implementation=sorted reads how many tokens each expert "
            "has, which breaks the graph; the nearest is model.experts_implementation=grouped_mm."
        )
    if "FullySharded" in str(cfg.trainer.strategy):
        yield (
            "module.compile is true with trainer=fsdp, which gathers and frees weights between the layers of the graph; "
            "the nearest is trainer=ddp_gpu, or module.compile=false."
        )


def positions_suffice(cfg: DictConfig) -> Iterator[str]:
    if cfg.data.seq_len > cfg.model.max_positions:
        yield (
            f"data.seq_len is {cfg.data.seq_len} tokens; expected at most model.max_positions, which is "
            f"{cfg.model.max_positions}."
        )


def schedule_is_in_order(cfg: DictConfig) -> Iterator[str]:
    start, stop = cfg.balance.from_step, cfg.balance.until_step
    if stop is not None and stop <= start:
        yield f"balance.until_step is {stop}; expected more than balance.from_step, which is {start}."


def paths_are_there(cfg: DictConfig) -> Iterator[str]:
    if cfg.data.get("path") is not None and not Path(cfg.data.path).expanduser().is_dir():
        yield f"data.path={cfg.data.path} is no folder; expected one with a sub-folder of text per domain."


def pretrained_is_there(cfg: DictConfig) -> Iterator[str]:
    """Of what is a path, not a hub name."""
    pretrained, tokenizer = cfg.model.pretrained, cfg.data.tokenizer
    if tokenizer is None:
        yield f"data.tokenizer is null; expected the words of model.pretrained: data.tokenizer={pretrained}."
        return
    # The model's own folder, where it is both, is named as the model's.
    for name, key in {tokenizer: "data.tokenizer", pretrained: "model.pretrained"}.items():
        wanted = "config.json" if key == "model.pretrained" else "tokenizer_config.json"
        if (is_path(name) or Path(name).is_dir()) and not (Path(name) / wanted).is_file():
            yield (
                f"{key}={name}: no {wanted} there; expected a folder written by save_pretrained, such as the export/ folder "
                "of a finished run, or a hub name."
            )


CHECKS: tuple[Callable[[DictConfig], Iterator[str]], ...] = (
    layout_is_known,
    block_divides,
    shape_fits,
    weights_have_a_type,
    text_can_be_cut,
    bias_has_a_router,
    experts_have_the_precision,
    can_be_compiled,
    positions_suffice,
    schedule_is_in_order,
)
PLACES: tuple[Callable[[DictConfig], Iterator[str]], ...] = (paths_are_there, pretrained_is_there)
