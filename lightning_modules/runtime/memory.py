"""What a training needs of a device, by arithmetic, whether or not there is one.

One forward and backward on the CPU is counted, operation by operation; of a model that is made
from sizes alone its tensors have no values (`FakeTensorMode`), so that it takes no memory and little time. A device's
context, libraries and allocator come on top: 1 to 2 GiB on CUDA.
"""

import contextlib
import copy
import inspect
import re
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

from lightning_modules.common.say import reason
from lightning_modules.runtime import devices

MIB = 2**20


def _shared(q: Sequence[int], kv: Sequence[int]) -> list[int]:
    """The shape of keys or values as if each head of the queries had its own, which share them in groups."""
    return [kv[0], q[1], *kv[2:]]


# The CPU's attention, which torch's counter knows under its names on CUDA alone.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, _shared(q, k), _shared(q, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, _shared(q, k), _shared(q, v))
    ),
}


class Counted(NamedTuple):
    """Of one forward and backward: floating-point operations, and the bytes beyond those of weights and gradients."""

    flops: int
    activations: int


class Need(NamedTuple):
    """Bytes on one device. exchange: what the strategy keeps for sharing with the other devices."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    exchange: float

    def told(self) -> str:
        parts = [f"{name} {size / MIB:,.0f}" for name, size in self._asdict().items() if size]
        return f"{sum(self) / MIB:,.0f} MiB a device ({', '.join(parts)})"


class Peak(TorchDispatchMode):
    """Most bytes at once of the storages that operations make, beside those of `known`.

    torch's own MemTracker counts the same, but no module that is called twice in a forward.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = WeakIdKeyDictionary(dict.fromkeys((tensor.untyped_storage() for tensor in known), True))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen[storage] = True
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return made

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


class Counter(pl.Callback):
    """Counts while it is entered; as a callback of a training, its micro-step number `at`.

    With accumulation the second micro-step is the one to count: gradients of the first lie there from its beginning.
    """

    def __init__(self, module: nn.Module, *, at: int = 0, cfg: DictConfig | None = None) -> None:
        """cfg: of the run whose callbacks compute something beside a micro-step, as a pass that counts ahead of it."""
        self.module, self.at = module, at
        given = (cfg.get("callbacks") or {}).values() if cfg is not None else ()
        self._beside = [instantiate(one).beside for one in given if one and hasattr(get_object(one._target_), "beside")]
        self.flops = FlopCounterMode(display=False, custom_mapping=ATTENTION)
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> "Counter":
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        trained = [p for p in self.module.parameters() if p.requires_grad and p.grad is None]
        self.to_come = sum(p.numel() * p.element_size() for p in trained)
        self.peak = Peak([*self.module.parameters(), *self.module.buffers(), *gradients])
        self._entered.enter_context(self.peak)
        self._entered.enter_context(self.flops)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at:
            self.__enter__()
            self.beside(batch)

    def beside(self, batch: Any) -> None:
        for compute in self._beside:
            compute(self.module, batch)

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.__exit__()

    @property
    def counted(self) -> Counted:
        return Counted(self.flops.get_total_flops(), max(0, self.peak.most - self.to_come))


def count(cfg: DictConfig, datamodule: Any) -> tuple[Counted, pl.LightningModule]:
    """(one micro-step of one device, the module that took it). The data must be prepared."""
    forwards = cfg.trainer.accumulate_grad_batches * devices.processes(cfg)
    if not made_from_sizes(cfg):
        module = instantiate(uncompiled(cfg))
        return _counted_in_training(cfg, datamodule, module, forwards=forwards), module
    # A loader of a copy, as the order is fixed once it has been asked for.
    datamodule = copy.copy(datamodule)
    datamodule.trainer = SimpleNamespace(
        accumulate_grad_batches=forwards, world_size=1, global_rank=0, max_steps=cfg.trainer.max_steps
    )
    batch = datamodule.train_batch(0)
    with FakeTensorMode() as mode, warnings.catch_warnings(action="ignore"), weights_of(dtype_of(cfg)):
        # The backend of experts that can run without values.
        sizes = OmegaConf.merge(uncompiled(cfg), {"model": {"experts_implementation": "sorted"}})
        module = instantiate(sizes)
        fake = {name: mode.from_tensor(value) for name, value in batch.items()}
        mixed = str(cfg.trainer.precision).endswith("-mixed")
        if cfg.trainer.accumulate_grad_batches > 1:
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter)
        with Counter(module, cfg=cfg) as counter:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                counter.beside(fake)
                loss = module.training_step(fake, 0)["loss"]
            loss.backward()
    return counter.counted, module


def uncompiled(cfg: DictConfig) -> DictConfig:
    """The config of its module, whose operations are counted one by one."""
    if "compile" not in cfg.module:
        return cfg.module
    found = OmegaConf.merge(cfg.module, {"compile": False})
    assert isinstance(found, DictConfig)
    return found


def made_from_sizes(cfg: DictConfig) -> bool:
    """Whether the model reads no weights: its maker says by the argument `device` that it can do with shapes alone."""
    model = OmegaConf.select(cfg, "module.model")
    if not isinstance(model, DictConfig) or model.get("pretrained") is not None:
        return False
    return "device" in inspect.signature(get_object(model._target_)).parameters


def _counted_in_training(cfg: DictConfig, datamodule: Any, module: pl.LightningModule, *, forwards: int) -> Counted:
    counter = Counter(module, at=int(cfg.trainer.accumulate_grad_batches > 1), cfg=cfg)
    mixed = str(cfg.trainer.precision).endswith("-mixed")
    settings = {**instantiate(cfg.trainer), "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
    settings |= {"precision": "bf16-mixed" if mixed else cfg.trainer.precision, "max_steps": 1, "logger": False}
    settings |= {"accumulate_grad_batches": forwards, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[counter], **settings | {"enable_progress_bar": False})
    trainer.fit(module, datamodule=datamodule)
    return counter.counted


def dtype_of(cfg: DictConfig) -> torch.dtype:
    """Of the weights: a mixed precision keeps them as `model.dtype` says, in float32 by itself."""
    known = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
    own = getattr(torch, str(OmegaConf.select(cfg, "module.model.dtype")), torch.float32)
    return known.get(str(cfg.trainer.precision), own)


@contextlib.contextmanager
def weights_of(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def strategy(cfg: DictConfig) -> str:
    """`one device`, `ddp` or `fsdp`."""
    told = str(OmegaConf.select(cfg, "trainer.strategy")).lower()
    if any(name in told for name in ("fsdp", "modelparallel", "fullysharded")):
        return "fsdp"
    return "ddp" if devices.processes(cfg) > 1 else "one device"


def need(cfg: DictConfig, module: nn.Module, *, activations: float) -> Need:
    """Weights, gradients and AdamW's two moments are whole on every device, or cut into as many parts under `fsdp`.

    Then the layer at work and the next one are put together again on every device; `ddp` copies the gradients into
    buckets that it sends. Each parameter has a step counter of 4 bytes.
    """
    size = dtype_of(cfg).itemsize
    weights = sum(p.numel() * (size if p.is_floating_point() else p.element_size()) for p in module.parameters())
    trained = [p for p in module.parameters() if p.requires_grad]
    gradients, moments = size * sum(p.numel() for p in trained), sum(2 * size * p.numel() + 4 for p in trained)
    way, parts = strategy(cfg), devices.processes(cfg)
    if way == "fsdp":
        layers = [layer for many in module.modules() if isinstance(many, nn.ModuleList) for layer in many]
        largest = max((sum(p.numel() for p in layer.parameters()) for layer in layers), default=0)
        return Need(weights / parts, gradients / parts, moments / parts, activations, 2 * size * largest)
    return Need(weights, gradients, moments, activations, gradients if way == "ddp" else 0)


class OutOfMemoryError(ValueError):
    """A device's memory did not suffice; the message says for what, and what to change."""


@contextlib.contextmanager
def out_of_memory_told(cfg: DictConfig, module: nn.Module | None = None) -> Iterator[None]:
    """Torch's OutOfMemoryError as one line: what was needed, what there is, which keys lower it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        during = "".join(f" while {note}" for note in getattr(error, "__notes__", [])[:1])
        raise OutOfMemoryError(f"out of memory{during}: {'; '.join(_needed(cfg, module, error))}.") from error


def _needed(cfg: DictConfig, module: nn.Module | None, error: BaseException) -> Iterator[str]:
    if module is not None and made_from_sizes(cfg):
        datamodule = instantiate(cfg.data)
        datamodule.prepare_data()
        counted, counted_module = count(cfg, datamodule)
        yield f"needed are {need(cfg, counted_module, activations=counted.activations).told()}"
    elif module is not None:
        yield f"needed are {need(cfg, module, activations=0).told()} and the activations"
    asked = re.search(r"Tried to allocate [\d.]+ \w+", str(error))
    yield f"t{asked[0][1:]}" if asked else reason(error).rstrip(".")
    if torch.cuda.is_available():
        yield f"the device has {torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / MIB:,.0f} MiB"
    yield f"less is needed with {', '.join(lowering(cfg))}"


def lowering(cfg: DictConfig) -> Iterator[str]:
    """Keys of this config that lower the need, and to what, the one that costs least first."""

    def has(key: str) -> Any:
        return OmegaConf.select(cfg, key)

    if cfg.study is None and has("data.global_batch"):
        more = 2 * cfg.trainer.accumulate_grad_batches
        yield f"trainer.accumulate_grad_batches={more} (half the sequences a forward)"
        if (micro := has("data.micro_batch") or 1) > 1:
            yield f"data.micro_batch={micro // 2}"
    if (batch := has("tuning.batch") or 1) > 1:
        yield f"tuning.batch={batch // 2}"
    if has("model.gradient_checkpointing") is False:
        yield "model.gradient_checkpointing=true"
    if str(cfg.trainer.precision) == "32-true":
        yield "trainer.precision=bf16-mixed"
    elif str(cfg.trainer.precision).endswith("-mixed"):
        yield "trainer.precision=bf16-true"
    if has("model.lora_rank") == 0:
        yield "model.lora_rank=8"
    if cfg.study is None and strategy(cfg) != "fsdp":
        yield "trainer=fsdp on more devices"
    if (batch := has("data.eval_batch") or 1) > 1:
        yield f"data.eval_batch={batch // 2} where it was in validation"
