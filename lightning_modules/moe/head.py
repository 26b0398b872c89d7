"""From hidden states to losses by the model's own head, chunk by chunk, so that logits [T, V] never lie in memory at once.

A head may do more than a matrix product: scale its logits, add a bias, cap them. So the body is taken out of the model's own
forward and the rest is run on hidden states at hand; where it proves to be s x hidden @ W, the fused loss is taken.

Shape legend: T tokens, H hidden units, V words, C tokens of a chunk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lightning_modules.common.body import body_of
from lightning_modules.moe.linear_cross_entropy import linear_cross_entropy

CHUNK = 1024
# Logits of these sizes tell a bias (0), rounding (1) and a cap (100).
PROBES = (0.0, 1.0, 100.0)


class Head:
    """The losses of a causal language model from its body's hidden states."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.body = model, body_of(model)
        assert self.body is not model, f"{type(model).__name__} has no body of its own"

    def logits(self, hidden_TH: Tensor) -> Tensor:
        """[T, V], as the model's own forward gives them."""
        with _in_place_of(self.body, hidden_TH[None]):
            return self.model(
                input_ids=torch.zeros_like(hidden_TH[None, :, 0], dtype=torch.int64), use_cache=False
            ).logits[0]

    def nll(self, hidden_TH: Tensor, targets_T: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, float32 [T]."""

        def of_chunk(hidden_CH: Tensor, targets_C: Tensor) -> Tensor:
            logits_CV = self.logits(hidden_CH)
            wide = torch.promote_types(logits_CV.dtype, torch.float32)
            return cross_entropy(logits_CV.to(wide), targets_C.to(logits_CV.device), reduction="none")

        parts = zip(hidden_TH.split(CHUNK), targets_T.split(CHUNK), strict=True)
        nll_T = torch.cat(
            [checkpoint(of_chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        )
        return nll_T.to(targets_T.device)

    def loss(self, hidden_TH: Tensor, targets_T: Tensor, valid_T: Tensor | None = None) -> Tensor:
        """Mean of `nll` over the valid targets, all when None; no valid target gives 0."""
        scale = self.scale
        if scale is not None:
            return linear_cross_entropy(
                hidden_TH=hidden_TH if scale == 1 else hidden_TH * scale,
                weight_VH=self.model.get_output_embeddings().weight,
                targets_T=targets_T,
                valid_T=valid_T,
            )
        nll_T = self.nll(hidden_TH, targets_T)
        if valid_T is None:
            return nll_T.mean()
        return torch.where(valid_T, nll_T, 0.0).sum() / valid_T.sum().clamp(min=1)

    @cached_property
    @torch.no_grad()
    def scale(self) -> float | None:
        """s where the model's logits are s x hidden @ W, found on random hidden states; None where they are not."""
        output = self.model.get_output_embeddings()
        if output is None:
            return None
        weight_VH = output.weight
        if isinstance(weight_VH, FakeTensor):
            # A plan's weights have no values: those of a model from sizes, whose logits are the plain product.
            return 1.0
        draw_TH = torch.randn(8, weight_VH.shape[1], generator=torch.Generator().manual_seed(0)).to(weight_VH)
        with torch.autocast(weight_VH.device.type, enabled=False):
            plain_TV = draw_TH @ weight_VH.T
            ratios = []
            for size in PROBES:
                hidden_TH = draw_TH * (size / plain_TV.std()).to(draw_TH)
                own_TV, product_TV = self.logits(hidden_TH).cpu().double(), (hidden_TH @ weight_VH.T).cpu().double()
                if own_TV.shape != product_TV.shape:
                    return None
                scale = float((own_TV * product_TV).sum() / product_TV.square().sum()) if size else 0.0
                limit = 1e-5 if weight_VH.dtype in (torch.float32, torch.float64) else 0.02
                if float((own_TV - scale * product_TV).abs().max()) > limit * max(float(own_TV.abs().max()), 1e-3):
                    return None
                ratios.append(scale)
        _, small, large = ratios
        # Rounding is no scale, and 1 leaves the hidden states as they are.
        return None if abs(small - large) > 1e-3 * abs(large) else 1.0 if abs(large - 1) < 1e-3 else large


class _Ready(tuple):
    """What a body hands on, with nothing but hidden states in it: by position, by name, None by any other name."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _in_place_of(body: nn.Module, hidden_BSH: Tensor) -> Iterator[None]:
    """While this lasts the body of a model returns `hidden_BSH`, whatever it is asked."""

    def ready(*_: Any, **__: Any) -> Any:
        return _Ready((hidden_BSH,))

    body.forward = ready
    try:
        yield
    finally:
        del body.forward
