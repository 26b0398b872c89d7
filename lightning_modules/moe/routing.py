"""Reads what the routers of a transformers MoE decide, layer by layer, without touching the forward.

Shape legend: L layers, T = B x S tokens, K selected experts a token, E experts, M blocks.
"""

from functools import cached_property

import torch
from torch import Tensor, nn

from lightning_modules.moe.losses import Frequency, block_sums, router_probabilities, selection_counts


class RouterTap:
    """Forward hooks on every router of a model.

    transformers' routers (Qwen2/3-MoE, OLMoE, DeepSeek-V3) all return (raw logits [T, E], weights [T, K], indices
    [T, K]). Reading the indices, not a second top-k, keeps DeepSeek's groups and bias exact. A recomputation under
    activation checkpointing calls the hooks again after `read()`; `read()` and `clear()` bracket the first forward,
    so nothing is counted twice.
    """

    def __init__(self, model: nn.Module) -> None:
        self.routers = [m for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")]
        if not self.routers:
            raise ValueError(f"{type(model).__name__} has no top-k router: is it a mixture of experts?")
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        for layer, router in enumerate(self.routers):
            router.register_forward_hook(lambda _m, _i, out, layer=layer: self._record(layer, out))

    def _record(self, layer: int, output: tuple[Tensor, Tensor, Tensor]) -> None:
        self._layers[layer] = (output[0], output[2])

    def clear(self) -> None:
        """Forget what was recorded, so that a stale graph is not kept alive."""
        self._layers.clear()

    def read(self) -> tuple[Tensor, Tensor]:
        """(logits_LTE with gradient, indices_LTK) of the forward just made; forgets them."""
        assert len(self._layers) == len(self.routers), "a router did not run in this forward"
        logits, indices = zip(*(self._layers[layer] for layer in range(len(self.routers))), strict=True)
        self.clear()
        return torch.stack(logits), torch.stack(indices)


class RouterStats:
    """One forward's routing, cut into `blocks` equal runs of whole sequences.

    logits_LTE float (with gradient), indices_LTK int64, valid_T bool, blocks = M. Everything else is derived
    when first asked for, and kept. (No dataclass: Lightning would deep-copy one that it finds in a step's output.)
    """

    def __init__(
        self, logits_LTE: Tensor, indices_LTK: Tensor, valid_T: Tensor, blocks: int, scoring: str = "softmax"
    ) -> None:
        self.logits_LTE, self.indices_LTK, self.valid_T = logits_LTE, indices_LTK, valid_T
        self.blocks, self.scoring = blocks, scoring

    @property
    def experts(self) -> int:
        return self.logits_LTE.shape[-1]

    @property
    def tokens_per_block(self) -> int:
        return self.valid_T.shape[0] // self.blocks

    @cached_property
    def probs_LTE(self) -> Tensor:
        return router_probabilities(logits_LTE=self.logits_LTE, scoring=self.scoring)

    @cached_property
    def block_T(self) -> Tensor:
        """Block of each token, int64 [T]."""
        tokens = self.valid_T.shape[0]
        return torch.arange(self.blocks, device=self.valid_T.device).repeat_interleave(tokens // self.blocks)

    @cached_property
    def prob_sums_LME(self) -> Tensor:
        return block_sums(values_LTX=self.probs_LTE, valid_T=self.valid_T, blocks=self.blocks)

    @cached_property
    def frequency(self) -> Frequency:
        """This forward's own counts and tokens: the micro-batch scope."""
        counts_LME = selection_counts(
            indices_LTK=self.indices_LTK,
            valid_T=self.valid_T,
            block_T=self.block_T,
            blocks=self.blocks,
            experts=self.experts,
        )
        tokens_M = self.valid_T.view(self.blocks, -1).sum(1)
        return Frequency(counts_LME, tokens_M.expand(self.logits_LTE.shape[0], -1))

    def regrouped(self, blocks: int) -> "RouterStats":
        """The same routing cut into another number of blocks; shares the softmax with this one."""
        other = RouterStats(self.logits_LTE, self.indices_LTK, self.valid_T, blocks, self.scoring)
        other.__dict__["probs_LTE"] = self.probs_LTE
        return other

    def selected_scores_LT(self) -> Tensor:
        """Sum of the selected experts' softmax scores per token, between K/E and 1 (figure 4 of the paper)."""
        return self.probs_LTE.detach().gather(-1, self.indices_LTK).sum(-1)


class ExpertFrequency(nn.Module):
    """Maps a forward's routing to the frequencies its loss uses: its own, unless a callback's hook says otherwise.

    It has no parameters; it exists so that `ExpertFrequencySync` can change the scope of the loss from outside.
    """

    def forward(self, stats: RouterStats) -> Frequency:
        return stats.frequency
