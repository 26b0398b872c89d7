"""Streaming statistics of held-out text; torchmetrics reduces them over ranks.

Shape legend: B sequences, D domains, L layers, T tokens, K selected experts, E experts, N sequences in all.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.moe.routing import RouterStats
from lightning_modules.moe.specialization import count_pairs


class DomainPerplexity(Metric):
    """Perplexity per domain and overall, from summed negative log-likelihoods in nats."""

    full_state_update = False

    def __init__(self, domains: int) -> None:
        super().__init__()
        self.add_state("nll_D", torch.zeros(domains, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens_D", torch.zeros(domains, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nll_B: Tensor, tokens_B: Tensor, domain_B: Tensor) -> None:
        self.nll_D.index_add_(0, domain_B, nll_B.double())
        self.tokens_D.index_add_(0, domain_B, tokens_B.double())

    def compute(self) -> tuple[Tensor, Tensor]:
        """(perplexity over all tokens, perplexity per domain [D])."""
        overall = (self.nll_D.sum() / self.tokens_D.sum().clamp(min=1)).exp()
        return overall, (self.nll_D / self.tokens_D.clamp(min=1)).exp()


class RoutingTally(Metric):
    """Who went where, sequence by sequence: what every specialisation measure is computed from."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("counts_NLE", "domain_N", "topk_score_NL", "tokens_N"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("pairs_LEE", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("entropy_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, stats: RouterStats, domain_B: Tensor) -> None:
        sequences = stats.blocks
        assert sequences == domain_B.shape[0], "the tally wants one block a sequence"
        layers = stats.logits_LTE.shape[0]
        self.counts_NLE.append(stats.frequency.counts_LME.transpose(0, 1).cpu())
        self.domain_N.append(domain_B.cpu())
        scores_LT = torch.where(stats.valid_T, stats.selected_scores_LT(), 0.0)
        self.topk_score_NL.append(scores_LT.view(layers, sequences, -1).sum(2).T.cpu())
        self.tokens_N.append(stats.valid_T.view(sequences, -1).sum(1).cpu())
        probs_LTE = stats.probs_LTE[:, stats.valid_T]
        self.entropy_sum = self.entropy_sum - torch.special.xlogy(probs_LTE, probs_LTE).sum(-1).mean(0).sum().double()
        valid_LTK = stats.indices_LTK[:, stats.valid_T]
        pairs = [count_pairs(indices_TK=layer_TK, experts=stats.experts) for layer_TK in valid_LTK]
        self.pairs_LEE = self.pairs_LEE + torch.stack(pairs)

    def compute(self) -> dict[str, Tensor]:
        def whole(state: list[Tensor] | Tensor) -> Tensor:
            return torch.cat(state) if isinstance(state, list) else state

        tally = {n: whole(getattr(self, n)) for n in ("counts_NLE", "domain_N", "topk_score_NL", "tokens_N")}
        mean_entropy = self.entropy_sum / tally["tokens_N"].sum()
        return {**tally, "pairs_LEE": self.pairs_LEE, "entropy": mean_entropy}
