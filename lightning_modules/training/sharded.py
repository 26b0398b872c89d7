"""Weights, gradients and optimizer state spread over the processes: torch's fully_shard (FSDP2), layer by layer."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from lightning_modules.training.checkpoints import check, keep
from lightning_modules.training.resume_point import refuse_other_processes

STEPS = ("training_step", "validation_step", "test_step")


class FullySharded(ModelParallelStrategy):
    """Shards any system's module; Lightning's own strategy wants each module to do so itself.

    Args:
        sharded_checkpoint: each process writes its share into a folder; else the first writes one file of the whole,
            as every other strategy does, and any of them reads it.
        process_group_backend: None is NCCL on GPUs and gloo on the CPU.
    """

    def __init__(self, *, sharded_checkpoint: bool = False, process_group_backend: str | None = None) -> None:
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=1,
            save_distributed_checkpoint=sharded_checkpoint,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        self.accelerator.setup_device(self.root_device)
        self._setup_distributed()
        self._device_mesh = init_device_mesh(
            self.root_device.type, (self.world_size,), mesh_dim_names=("data_parallel",)
        )

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def setup(self, trainer: pl.Trainer) -> None:
        self.accelerator.setup(trainer)
        self.model: nn.Module = self.precision_plugin.convert_module(self.lightning_module)
        # A module that was fitted is sharded when it is tested.
        if not isinstance(self.model, FSDPModule):
            shard(self.model, self.device_mesh)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath)
            return
        path = Path(self.broadcast(filepath))
        beside = path.with_name(f"{path.name}.new")
        if self.is_global_zero:
            shutil.rmtree(beside, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, beside)
        self.barrier()
        if self.is_global_zero:
            keep(beside, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        check(path)
        if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            # Weights are shared out while the file is read, and of another number of processes' that ends in a riddle.
            beside = torch.load(path / "meta.pt" if path.is_dir() else path, map_location="meta", weights_only=True)
            refuse_other_processes(beside["random_states"], self.world_size)
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Spread `module` over `mesh`: each layer that transformers would not split by itself, the rest together.

    A layer's weights are whole only while it computes, those of the rest during a whole step: what a step reads of them
    outside their own forward (an output layer, a tied embedding) is there, and so is a weight that stands in several places,
    also where transformers would keep together what holds it (BERT's embeddings). `also_forwards` of the module names the
    methods that make a forward beside Lightning's steps.
    """
    whole = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    places = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
    # What lies in another is split first.
    for layer in [part for part in module.modules() if type(part).__name__ in whole][::-1]:
        if all(places[id(weight)] == 1 for weight in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in (*STEPS, *getattr(module, "also_forwards", ())):
        register_fsdp_forward_method(module, name)


def all_take_part(module: nn.Module) -> bool:
    """Whether a forward of `module` wants every process, each of which holds a share of its weights."""
    return isinstance(module, FSDPModule)


@torch.no_grad()
def gather(module: nn.Module) -> None:
    """Put the whole weights back, on the CPU, for what is done after a training; every process has to call this.

    Weights that were tied are tied again, and modules are of their own class, so that they can be moved and copied. Only the
    first process keeps the weights.
    """
    if not isinstance(module, FSDPModule):
        return
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    found: dict[int, nn.Parameter] = {}
    first = torch.distributed.get_rank() == 0
    for part in module.modules():
        for name, weight in part._parameters.items():
            if not isinstance(weight, DTensor):
                continue
            if id(weight) not in found:
                full = weight.full_tensor()
                found[id(weight)] = nn.Parameter(full.cpu() if first else full.new_empty(0), weight.requires_grad)
            part._parameters[name] = found[id(weight)]
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.__class__ = type(part).__mro__[2]  # of (sharded, FSDPModule, own)
            for state in [name for name in vars(part) if name.startswith("__composable_api_state_key")]:
                delattr(part, state)
        for name, hooks in vars(part).items():
            if name.endswith("_hooks") and isinstance(hooks, dict):
                for key in [key for key, hook in hooks.items() if _of_fsdp(hook)]:
                    del hooks[key]


def _of_fsdp(hook: Any) -> bool:
    while hasattr(hook, "hook") or hasattr(hook, "func"):
        hook = getattr(hook, "hook", None) or hook.func
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")
