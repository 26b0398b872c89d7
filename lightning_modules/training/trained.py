"""What of a model trains: all that its checkpoints and its kept arms hold, as frozen weights come with the base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter that takes a gradient, by all of its names."""
    return {n: p for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}


def look_for_unused(trainer: pl.Trainer) -> None:
    """For a module's `setup`, where weights that train may have no part in a step's loss: DDP dies of it unless it looks."""
    if isinstance(strategy := trainer.strategy, DDPStrategy):
        strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file; weights that share memory are written one by one."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: w.detach().cpu().contiguous().clone() for n, w in weights.items()}, path)


class SavesWhatTrains(pl.LightningModule):
    """A LightningModule whose state is its trained weights; `decided_by` names what decides which those are."""

    decided_by: str
    strict_loading = False

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        kept = trained(self)
        return {n: v for n, v in super().state_dict(*args, **kwargs).items() if n in kept}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """ValueError when the trained weights are others than those saved."""
        if differ := sorted(trained(self).keys() ^ state_dict.keys()):
            raise ValueError(
                f"the checkpoint holds other trained weights ({len(differ)} differ, {differ[0]} for one): it was written "
                f"with other {self.decided_by}. Restore that, or start anew with fresh=true."
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)
