"""Physical removal of neurons: smaller matrices, and what the removed ones said on average merged into the bias.

Keeping the top 2% of neurons in the top 9 of 12 layers (section 6 of Wang et al.) leaves 66.6% of RoBERTa-base.
"""

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_modules.prompt.families import down_projections, up_projections
from lightning_modules.prompt.feed_forward import normed

if TYPE_CHECKING:
    from transformers.pytorch_utils import Conv1D


def keep_mask(mask_LF: Tensor, *, layers: int) -> Tensor:
    """All neurons of the lower layers and those of `mask_LF` in the top `layers`."""
    assert layers <= len(mask_LF), f"{layers} of {len(mask_LF)} layers"
    kept = mask_LF.clone()
    kept[: len(kept) - layers] = True
    return kept


def pruned(model: nn.Module, *, keep_LF: Tensor, mean_LF: Tensor) -> nn.Module:
    """A copy whose other neurons are fixed to their means: W x + b with x = mean there is one more constant in b.

    keep_LF: bool, neurons that stay. mean_LF: of all positions (`skill_neurons.moments`). Works on meta tensors.
    """
    model = copy.deepcopy(model)
    for layer, name in enumerate(down_projections(model)):
        keep_F = keep_LF[layer]
        if bool(keep_F.all()):
            continue
        if norm := normed(model).get(name):
            raise ValueError(
                f"{type(model).__name__}: {norm} before {name} scales its neurons by all of them (BitNet), so none can be "
                "taken out without changing the others. This family cannot be pruned."
            )
        for up_name, up in up_projections(model, name).items():
            _replace(model, up_name, _rows(up, keep_F, up_name))
        _replace(model, name, _columns(model.get_submodule(name), keep_F, mean_LF[layer]))
    return model


def parameters_left(model: nn.Module, smaller: nn.Module) -> float:
    """Share of the parameters; tied ones count once."""
    return sum(p.numel() for p in smaller.parameters()) / sum(p.numel() for p in model.parameters())


def _linear(module: "nn.Linear | Conv1D") -> tuple[Tensor, Tensor | None]:
    """Weight as [out, in] and bias of a Linear or of GPT-2's Conv1D, which holds it the other way round."""
    weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
    return weight.detach(), None if module.bias is None else module.bias.detach()


def _made(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
    return layer


def _rows(module: "nn.Linear | Conv1D", keep_F: Tensor, name: str) -> nn.Linear:
    """Those of the kept neurons; of a gate and an up-projection in one matrix (Phi-3), those of both halves."""
    weight, bias = _linear(module)
    parts, rest = divmod(len(weight), len(keep_F))
    if rest or parts > 2:
        raise ValueError(
            f"{name} makes {len(weight)} numbers a token for {len(keep_F)} neurons, so not neurons alone; expected as many, "
            "or twice as many where a gate is in the same matrix. This family cannot be pruned."
        )
    keep_F = keep_F.repeat(parts)
    place = keep_F.nonzero().squeeze(1).to(weight.device)
    return _made(weight[place], None if bias is None else bias[place])


def _columns(module: "nn.Linear | Conv1D", keep_F: Tensor, mean_F: Tensor) -> nn.Linear:
    weight, bias = _linear(module)
    place, gone = (m.nonzero().squeeze(1).to(weight.device) for m in (keep_F, ~keep_F))
    constant = weight[:, gone] @ mean_F.to(weight.device, weight.dtype)[gone]
    return _made(weight[:, place], constant if bias is None else bias + constant)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
