"""A pretended accelerator with real values: finds on a machine without a GPU what would fail or wait on one.

Its tensors say `pretend:0` and are computed on the CPU. As CUDA's they refuse CPU tensors of one dimension or more, CPU
generators and `.numpy()`; as Apple's they refuse float64. `waits` counts, by line of the project, where the host waits for
the device. As one of two ranks (`two_ranks`) it refuses CPU tensors in collectives, as NCCL does.

FakeTensorMode("cuda") would not do: it has no values, and fails with the CPU wheel at weight initialisation.
"""

import collections
import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

PACKAGES = ("lightning_modules/", "datamodules/")
# Of these, CUDA takes CPU tensors too: copies, and CPU indices into device tensors.
MIXED = {
    f"aten::{name}"
    for name in (
        "copy_",
        "_to_copy",
        "_copy_from",
        "index",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "_unsafe_index",
        "_unsafe_index_put",
        "set_data",
    )
}
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select"}

waits: collections.Counter[str] = collections.Counter()
allows_float64 = True
# Names of process groups of the hosts, over gloo: these take CPU tensors.
hosts: set[str] = set()


class _Backend(_DummyBackendModule):
    """What torch asks of a device's module."""

    def synchronize(self, *_: Any) -> None: ...

    def set_device(self, *_: Any) -> None: ...

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, *_: Any) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def _lazy_init(self) -> None: ...


_setup_privateuseone_for_python_backend("pretend", _Backend())
DEVICE = torch.device("pretend:0")


def note_wait() -> None:
    """Remember the innermost line of the project that made the host wait."""
    for frame in reversed(traceback.extract_stack()):
        if any(package in frame.filename for package in PACKAGES):
            place = min(frame.filename.find(p) for p in PACKAGES if p in frame.filename)
            waits[f"{frame.filename[place:]}:{frame.lineno}"] += 1
            return


def on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "pretend"


class Pretended(torch.Tensor):
    """Holds its values in `held`, a CPU tensor."""

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> "Pretended":
        if real.dtype == torch.float64 and not allows_float64:
            raise TypeError("Cannot convert a pretend Tensor to float64 dtype: the device has no float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = real
        return made

    def tolist(self) -> Any:
        note_wait()
        return self.detach().held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a pretend:0 tensor to numpy; use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.held!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


# An operation's arguments nest lists at most: torch's own trees know dictionaries and classes, and take most of its time.
def flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        else:
            yield value


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)([mapped(change, x) for x in value])
    return change(value)


def refuse(name: str, args: Any, leaves: list[Any], *, ours: list[Pretended], wanted: bool) -> None:
    """RuntimeError for what CUDA refuses."""
    cpu = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Pretended) and x.dim() > 0]
    if ours and cpu and name not in MIXED:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found pretend:0 and cpu in {name}")
    if ours and name.startswith("aten::index") and name in MIXED and not isinstance(args[0], Pretended):
        raise RuntimeError(f"indices should be on the indexed tensor's device (cpu) in {name}")
    if name.startswith("c10d::") and name != "c10d::barrier":
        group = next(dist.ProcessGroup.unbox(x) for x in leaves if isinstance(x, torch.ScriptObject))
        wrong = "pretend" if group.group_name in hosts else "cpu"
        if any(isinstance(x, torch.Tensor) and x.device.type == wrong for x in leaves):
            raise RuntimeError(f"No backend type associated with device type {wrong}")
    generators = [x for x in leaves if isinstance(x, torch.Generator) and x.device.type == "cpu"]
    if generators and wanted:
        raise RuntimeError(f"Expected a 'pretend' device type for generator but found 'cpu' in {name}")


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on the real values; its results are on the device when its inputs or `device` are."""
    name = func._schema.name
    leaves = [*flat(args), *flat(kwargs.values())]
    ours = [x for x in leaves if isinstance(x, Pretended)]
    wanted = on_device(kwargs["device"]) if kwargs.get("device") is not None else bool(ours)
    refuse(name, args, leaves, ours=ours, wanted=wanted)
    if ours and (name in WAITING or (name == "aten::_to_copy" and not wanted)):
        note_wait()
    if name == "aten::histc" and ours and not args[0].is_floating_point():
        # CUDA counts integers, the CPU does not.
        args = (Pretended(args[0].held.float()), *args[1:])
    before = {id(x.held): x for x in ours}

    def real(x: Any) -> Any:
        if isinstance(x, Pretended):
            return x.held
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == "pretend" else x

    out = func(*(mapped(real, x) for x in args), **{name: mapped(real, x) for name, x in kwargs.items()})
    if name == "aten::copy_":
        return args[0]
    if not wanted:
        return out
    # An operation in place hands back the tensor it was given.

    def pretended(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return before[id(x)] if id(x) in before else Pretended(x)

    return mapped(pretended, out)


@torch.library.impl("aten::empty_strided", "privateuseone")
def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Pretended:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype))


@torch.library.impl("aten::empty.memory_format", "privateuseone")
def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Pretended:
    return Pretended(torch.empty(size, dtype=dtype))


@torch.library.impl("aten::_copy_from", "privateuseone")
def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    if isinstance(source, Pretended) and not isinstance(target, Pretended):
        note_wait()
    goal = target.held if isinstance(target, Pretended) else target
    goal.copy_(source.held if isinstance(source, Pretended) else source)
    return target


class _Everywhere(TorchDispatchMode):
    """Factories that name the device, and operations on its tensors, wherever they are called."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func.namespace == "c10d"
            or on_device(kwargs.get("device"))
            or any(isinstance(x, Pretended) for x in flat((*args, *kwargs.values())))
        ):
            return compute(func, args, kwargs)
        return func(*args, **kwargs)


@contextlib.contextmanager
def machine(*, float64: bool = True) -> Iterator[None]:
    """A machine with one such device while it lasts; `waits` starts at nothing."""
    global allows_float64
    waits.clear()
    allows_float64 = float64
    try:
        with _Everywhere():
            yield
    finally:
        allows_float64 = True


class PretendedAccelerator(Accelerator):
    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "pretend"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def strategy() -> pl.strategies.Strategy:
    """For `pl.Trainer(strategy=...)`: one pretended device, within `two_ranks` that of the first rank."""
    made = SingleDeviceStrategy(device=DEVICE, accelerator=PretendedAccelerator())
    made.world_size = dist.get_world_size() if dist.is_initialized() else 1
    return made


@contextlib.contextmanager
def two_ranks() -> Iterator[None]:
    """As the first of two ranks, the other of which does the very same: the world's collectives take only device tensors."""

    def new_group(backend: str | None = None) -> dist.ProcessGroup:
        group = made(backend="fake")
        if backend == "gloo":
            hosts.add(group.group_name)
        return group

    made, dist.new_group = dist.new_group, new_group
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        dist.new_group = made
        dist.destroy_process_group()
        hosts.clear()
