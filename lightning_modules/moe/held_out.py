"""Streaming statistics of held-out text; torchmetrics gathers them over ranks.

Everything is kept by sequence on the module's device, as that is where ranks gather it, and summed in float64 on the CPU.

Shape legend: B sequences of one batch, D domains, L layers, T tokens, K selected experts, E experts, N sequences in all,
U updates.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.common import metric_names as names
from lightning_modules.moe.routing import RouterStats
from lightning_modules.moe.specialization import count_pairs, over_groups


class Tally(Metric):
    """Lists of tensors under `names`, joined over updates and ranks."""

    full_state_update = False
    names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        for name in self.names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            getattr(self, name).append(value)

    def whole(self, name: str) -> Tensor:
        """Of all updates and ranks, on the CPU."""
        return dim_zero_cat(getattr(self, name)).cpu()


class DomainPerplexity(Tally):
    """Perplexity per domain and overall, from summed negative log-likelihoods in nats."""

    names = ("nll_N", "tokens_N", "domain_N")

    def __init__(self, domains: int) -> None:
        super().__init__()
        self.domains = domains

    def update(self, nll_B: Tensor, tokens_B: Tensor, domain_B: Tensor) -> None:
        self.add(nll_N=nll_B, tokens_N=tokens_B, domain_N=domain_B)

    def compute(self) -> tuple[float, list[float]]:
        """(perplexity over all tokens, perplexity per domain), NaN of no tokens.

        No tensors: torchmetrics takes one domain's for a scalar.
        """
        domain_N = self.whole("domain_N")
        nll_D, tokens_D = (over_groups(self.whole(n), domain_N, self.domains) for n in ("nll_N", "tokens_N"))
        return float((nll_D.sum() / tokens_D.sum()).exp()), (nll_D / tokens_D).exp().tolist()

    def metrics(self, split: str, domains: Sequence[str]) -> dict[str, float]:
        """By name, of all that has tokens."""
        overall, by_domain = self.compute()
        values = {names.per_domain(f"{split}/ppl", d): v for d, v in zip(domains, by_domain, strict=True)}
        return {name: v for name, v in {f"{split}/ppl": overall, **values}.items() if not math.isnan(v)}


class RoutingTally(Tally):
    """Who went where, sequence by sequence: what every specialisation measure is computed from."""

    names = ("counts_NLE", "domain_N", "topk_score_NL", "tokens_N", "entropy_U")
    pairs_LEE: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs_LEE", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, stats: RouterStats, domain_B: Tensor) -> None:
        sequences, layers = stats.blocks, stats.logits_LTE.shape[0]
        assert sequences == domain_B.shape[0], "the tally wants one block a sequence"
        scores_LT = torch.where(stats.valid_T, stats.selected_scores_LT(), 0.0)
        probs_LTE = stats.probs_LTE[:, stats.valid_T]
        self.add(
            counts_NLE=stats.frequency.counts_LME.transpose(0, 1),
            domain_N=domain_B,
            topk_score_NL=scores_LT.view(layers, sequences, -1).sum(2).T,
            tokens_N=stats.valid_T.view(sequences, -1).sum(1),
            entropy_U=-torch.special.xlogy(probs_LTE, probs_LTE).sum(-1).mean(0).sum()[None],
        )
        valid_LTK = stats.indices_LTK[:, stats.valid_T]
        pairs = [count_pairs(indices_TK=layer_TK, experts=stats.experts) for layer_TK in valid_LTK]
        self.pairs_LEE = self.pairs_LEE + torch.stack(pairs)

    def compute(self) -> dict[str, Tensor]:
        tally = {name: self.whole(name) for name in self.names}
        entropy = tally.pop("entropy_U").double().sum() / tally["tokens_N"].sum()
        return {**tally, "pairs_LEE": self.pairs_LEE.cpu(), "entropy": entropy}
