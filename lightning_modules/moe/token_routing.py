"""Held-out text with the routing of each token, kept while forwards pass by.

Shape legend: B sequences of a forward, S tokens of a sequence, L layers, K selected experts, N sequences kept.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.moe.routing import RouterStats

# Enough for the tables of a large model within a minute, and for a few megabytes of page.
SELECTIONS = 4_000_000


class Held(NamedTuple):
    """On the CPU: tokens int64 [N, S], experts int32 and scores float32 [L, N, S, K], a token's highest score first, domain
    int64 [N]."""

    tokens_NS: Tensor
    experts_LNSK: Tensor
    scores_LNSK: Tensor
    domain_N: Tensor


class TokenRouting:
    """Takes in forwards one by one and keeps whole sequences, of each domain the first: `windows`, or as many as together
    have `selections`."""

    def __init__(self, *, windows: int | None = None, selections: int = SELECTIONS) -> None:
        self.windows, self.selections = windows, selections
        self._kept: list[Held] = []
        self._taken: dict[int, int] = {}

    def add(self, batch: Mapping[str, Tensor], stats: RouterStats, *, domains: int) -> None:
        """batch: input_ids int64 [B, S], domain int64 [B]; stats of its forward, one block a sequence."""
        input_ids, domain_B = batch["input_ids"], batch["domain"]
        shape = (stats.indices_LTK.shape[0], *input_ids.shape, stats.indices_LTK.shape[-1])
        room = self.windows
        if room is None:
            layers, _, length, top_k = shape
            room = max(1, self.selections // (layers * top_k * length * domains))
        wanted = []
        for place, domain in enumerate(domain_B.tolist()):
            if self._taken.get(domain, 0) < room:
                self._taken[domain] = self._taken.get(domain, 0) + 1
                wanted.append(place)
        if not wanted:
            return
        # Many families ask their top-k for no order.
        chosen_LTK = stats.probs_LTE.detach().gather(-1, stats.indices_LTK)
        scores_LTK, order_LTK = chosen_LTK.sort(dim=-1, descending=True, stable=True)
        experts_LTK = stats.indices_LTK.gather(-1, order_LTK)
        experts, scores = (values.reshape(shape)[:, wanted].cpu() for values in (experts_LTK, scores_LTK))
        self._kept.append(Held(input_ids[wanted].cpu(), experts.int(), scores.float(), domain_B[wanted].cpu()))

    def held(self) -> Held:
        tokens, experts, scores, domain = zip(*self._kept, strict=True)
        return Held(torch.cat(tokens), torch.cat(experts, 1), torch.cat(scores, 1), torch.cat(domain))
