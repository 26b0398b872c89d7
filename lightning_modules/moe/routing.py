"""Reads what the routers of a transformers MoE decide, layer by layer, without touching the forward.

Shape legend: L layers, T = B x S tokens, K selected experts a token, E experts, M blocks.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.moe.losses import Frequency, block_sums, router_probabilities, selection_counts
from lightning_modules.moe.routers import SCORES, Choice, choice_of, mixtures_of, scoring_of, tolerance, when_told


class RouterTap:
    """Forward hooks on every router of a model.

    Reading the indices, not a second top-k, keeps groups, correction biases and hashed routes exact. How the routers score
    is found at the first forward that tells, from the weights that they give their experts (`routers.scoring_of`). A
    recomputation under activation checkpointing calls the hooks again after `read()`; `read()` and `clear()` bracket the
    first forward, so nothing is counted twice.
    """

    def __init__(self, model: nn.Module) -> None:
        self.family = type(model).__name__
        self.mixtures = mixtures_of(model)
        self.routers = [mixture.router for mixture in self.mixtures]
        self.top_k = self.mixtures[0].top_k
        self.scoring: str | None = None
        self._is_sure = False
        self._layers: dict[int, Choice] = {}
        self._handles = [
            router.register_forward_hook(lambda _m, _i, out, layer=layer: self._record(layer, out))
            for layer, router in enumerate(self.routers)
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, layer: int, output: Any) -> None:
        try:
            choice = choice_of(output, top_k=self.top_k)
        except ValueError as error:
            raise ValueError(
                f"{self.family}: its {type(self.routers[layer]).__name__} {error}; such a router is not read."
            ) from None
        if choice is not None:
            self._layers[layer] = choice
            return

        # A router of bare logits: its block chooses, and the experts are told.
        def told(found: tuple[Tensor, Tensor] | None) -> None:
            handle.remove()
            assert found is not None, "the experts were not told who was chosen"
            self._layers[layer] = Choice(output.flatten(0, -2), found[1], found[0])

        handle = when_told(self.mixtures[layer].experts, told)

    def clear(self) -> None:
        """Forget what was recorded, so that a stale graph is not kept alive."""
        self._layers.clear()

    def read(self) -> tuple[Tensor, Tensor]:
        """(logits_LTE with gradient, indices_LTK) of the forward just made; forgets them.

        Raises ValueError where the layers cannot be compared or the routers score in no way that is known.
        """
        assert len(self._layers) == len(self.routers), "a router did not run in this forward"
        choices = [self._layers[layer] for layer in range(len(self.routers))]
        self.clear()
        widths = {(c.logits_TE.shape[-1], c.indices_TK.shape[-1]) for c in choices}
        if len(widths) > 1:
            told = ", ".join(f"{k} of {e}" for e, k in sorted(widths))
            raise ValueError(f"{self.family}: its layers choose {told} experts; expected the same in every layer.")
        if not self._is_sure:
            self.scoring = self._scoring(choices)
        # Layers may lie on several devices.
        place = choices[0].logits_TE.device
        logits, indices = zip(*((c.logits_TE.to(place), c.indices_TK.to(place)) for c in choices), strict=True)
        return torch.stack(logits), torch.stack(indices)

    def _scoring(self, choices: list[Choice]) -> str:
        name, difference, second = scoring_of(choices)
        limit = tolerance(choices[0].logits_TE.dtype, choices[0].weights_TK.dtype)
        # Routers that begin even agree with every score, and are asked again until they tell.
        self._is_sure = second > limit
        router = type(self.routers[0]).__name__
        if difference == float("inf"):
            raise ValueError(
                f"{self.family}: its {router} gives every expert the same weight, so it says nothing of its scores and "
                "learns nothing from text; expected top_k of 2 or more, or weights that are not scaled to sum to 1."
            )
        if difference > limit:
            raise ValueError(
                f"{self.family}: the weights of its {router} agree with none of {', '.join(SCORES)} "
                f"(the nearest differs by {difference:.2g}, at most {limit:.2g} is allowed), so the probabilities that "
                "balancing and every measure of routing are made of are not known."
            )
        return name


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

    @cached_property
    def probs_LTE(self) -> Tensor:
        return router_probabilities(logits_LTE=self.logits_LTE, scoring=self.scoring)

    @cached_property
    def prob_sums_LME(self) -> Tensor:
        return block_sums(values_LTX=self.probs_LTE, valid_T=self.valid_T, blocks=self.blocks)

    @cached_property
    def frequency(self) -> Frequency:
        """This forward's own counts and tokens: the micro-batch scope."""
        blocks_M = torch.arange(self.blocks, device=self.valid_T.device)
        counts_LME = selection_counts(
            indices_LTK=self.indices_LTK,
            valid_T=self.valid_T,
            block_T=blocks_M.repeat_interleave(len(self.valid_T) // self.blocks),
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
