"""A model's routers, found by where they stand, and what they hand out, told by what it is.

transformers has some sixty families of mixtures; their routers differ in name, in the order of what they return and in how
they score. So nothing is known of a family here: a router is what stands beside experts, an expert's number is a whole
number, and the score is the one that the router's own weights agree with.

Shape legend: T tokens, K selected experts a token, E experts.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

ROUTER = re.compile(r"(Router|Gate|Gating)$")
# How router logits become scores, in the literature's order: Shazeer 2017, DeepSeek-V3, DeepSeek-V4; Gemma-4's router
# hands out probabilities at once.
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits_TE: logits_TE.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda logits_TE: nn.functional.softplus(logits_TE).sqrt(),
    "given": lambda logits_TE: logits_TE,
}


@dataclass(frozen=True)
class Mixture:
    """A layer's router and experts, and the block that holds both."""

    router: nn.Module
    experts: nn.Module
    block: nn.Module

    @property
    def top_k(self) -> int:
        return _whole((self.router, self.block, self.experts), "top_k", "top_k_experts", "num_experts_per_tok")

    @property
    def count(self) -> int:
        """Routed experts of the layer."""
        return _whole((self.experts, self.router, self.block), "num_experts", "n_routed_experts", "num_local_experts")


def _whole(modules: Sequence[nn.Module], *names: str) -> int:
    """The first whole number that one of `modules`, or its config, calls by one of `names`."""
    holders = [*modules, *(m.config for m in modules if hasattr(m, "config"))]
    found = [getattr(h, n) for h in holders for n in names if isinstance(getattr(h, n, None), int)]
    if not found:
        raise ValueError(f"{type(modules[0]).__name__} tells no {names[0]}; such a mixture is not read.")
    return int(found[0])


class Choice(NamedTuple):
    """What one router made of T tokens: raw logits [T, E] with gradient, the experts' weights [T, K], their ids [T, K]."""

    logits_TE: Tensor
    weights_TK: Tensor
    indices_TK: Tensor


def mixtures_of(model: nn.Module) -> list[Mixture]:
    """Every layer's, in order. ValueError when there is none."""
    found = []
    for block in model.modules():
        names = [(type(child).__name__, child) for child in block.children()]
        router = next((child for name, child in names if ROUTER.search(name)), None)
        experts = next((child for name, child in names if "Experts" in name), None)
        if router is not None and experts is not None:
            found.append(Mixture(router, experts, block))
    if not found:
        raise ValueError(f"{type(model).__name__} has no router beside experts: it is no mixture of experts.")
    return found


def choice_of(output: Any, *, top_k: int) -> Choice | None:
    """A router's output read: (logits, weights, ids), or (weights that are 0 for experts not chosen, logits).

    None for bare logits, where the block chooses. ValueError for what tells no expert's number.
    """
    if isinstance(output, Tensor):
        return None
    parts = [part for part in output if isinstance(part, Tensor) and part.dim() > 1]
    logits = parts[0].flatten(0, -2) if parts else torch.empty(0)
    if len(parts) >= 3 and not parts[2].is_floating_point() and parts[1].shape == parts[2].shape:
        return Choice(logits, parts[1].flatten(0, -2), parts[2].flatten(0, -2))
    if len(parts) == 2 and parts[0].shape == parts[1].shape and bool(((parts[0] != 0).sum(-1) <= top_k).all()):
        weights_TK, indices_TK = logits.topk(top_k, -1)
        return Choice(parts[1].flatten(0, -2), weights_TK, indices_TK)
    raise ValueError("hands out neither the numbers of the experts that a token goes to nor a weight for each expert")


def when_told(experts: nn.Module, take: Callable[[tuple[Tensor, Tensor] | None], None]) -> Any:
    """Whenever `experts` are called, `take` gets (ids [T, K], weights [T, K]) of what they are called with; None when they
    are called otherwise. Returns the handle of the hook.
    """

    def told(_experts: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = [a for a in (*arguments, *named.values()) if isinstance(a, Tensor)]
        indices = next((a for a in tensors if not a.is_floating_point()), None)
        weights = next(
            (a for a in tensors if a.is_floating_point() and indices is not None and a.shape == indices.shape), None
        )
        take(None if indices is None or weights is None else (indices, weights))

    return experts.register_forward_pre_hook(told, with_kwargs=True)


def scoring_of(choices: Sequence[Choice]) -> tuple[str, float, float]:
    """The name in `SCORES` that the routers' weights agree with best, by how much they differ, relatively, and by how much
    from the next best.

    A family may scale a token's weights to sum to 1 or to something else: with two experts or more a token, only their
    proportions count. Where weights are equal though no score of the logits is, they tell none: the difference is infinite.
    """
    if any(isinstance(choice.logits_TE, FakeTensor) for choice in choices):
        # A plan's, which have shapes and no values: its counts are the same for every score.
        return "softmax", 0.0, float("inf")
    if all(_are_shares(choice.logits_TE) for choice in choices):
        # Already a softmax. Gemma-4 then scales an expert's weight by a number of its own, so weights would not tell.
        return "given", 0.0, float("inf")
    differences, all_equal = dict.fromkeys(SCORES, 0.0), False
    for choice in choices:
        # On the CPU: a device may have no float64.
        logits_TE, weights_TK, indices_TK = (part.detach().cpu() for part in choice)
        logits_TE, own_TK = logits_TE.double(), _proportions(weights_TK.double())
        all_equal = all_equal or bool((own_TK == own_TK[:1, :1]).all())
        for name, score in SCORES.items():
            theirs_TK = _proportions(score(logits_TE).gather(-1, indices_TK))
            found = float((theirs_TK - own_TK).abs().max() / own_TK.abs().max())
            differences[name] = max(differences[name], found)
    best, second = sorted(differences, key=lambda name: differences[name])[:2]
    if all_equal and differences[best] > tolerance(choices[0].logits_TE.dtype, choices[0].weights_TK.dtype):
        return best, float("inf"), float("inf")
    return best, differences[best], differences[second]


def _are_shares(values_TE: Tensor) -> bool:
    """Whether every token's values are none below 0 and sum to 1, up to the rounding of their type."""
    values_TE = values_TE.detach().cpu()
    limit = tolerance(values_TE.dtype)
    return bool((values_TE >= 0).all() and ((values_TE.double().sum(-1) - 1).abs() <= limit).all())


def _proportions(values_TK: Tensor) -> Tensor:
    """Of a token's weights among one another; of all tokens' where each has one."""
    axis: tuple[int, ...] = (-1,) if values_TK.shape[-1] > 1 else (0, 1)
    return values_TK / values_TK.sum(axis, keepdim=True).clamp(min=1e-20)


def tolerance(*dtypes: torch.dtype) -> float:
    """1e-4, or four roundings of the coarsest of `dtypes`."""
    return max(1e-4, *(4 * torch.finfo(dtype).eps for dtype in dtypes))
