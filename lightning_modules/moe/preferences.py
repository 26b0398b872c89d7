"""Which domains, words and other experts an expert prefers, against what chance alone gives.

Two questions, two nulls. A domain: sequences keep their routing and their labels are shuffled, so that tokens of one
sequence, which go alike, count once. A word: within each domain an expert takes any occurrence alike, so that a word of
mathematics says nothing of an expert that takes mathematics. Lines are family-wise: in 95 of 100 pages in which nothing
is preferred, nothing at all lies beyond one.

Shape legend: N sequences, D domains, L layers, E experts, T tokens, K selected experts a token, W distinct words.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_modules.moe.specialization import selection_share_DLE, shuffles

LEVEL = 0.05


class DomainPreference(NamedTuple):
    """share, mean and spread float64 [D, L, E]: of a domain's selections, how much goes to each expert; what shuffled
    labels give, and their standard deviation. line: standard deviations above the mean that any cell of all reaches in
    one of twenty shuffles."""

    share_DLE: Tensor
    mean_DLE: Tensor
    spread_DLE: Tensor
    line: float

    @property
    def beyond_DLE(self) -> Tensor:
        """bool [D, L, E]: the domain goes there more often than chance gives anywhere."""
        return self.share_DLE > self.mean_DLE + self.line * self.spread_DLE


def domain_preference(
    *, counts_NLE: Tensor, domain_N: Tensor, domains: int, draws: int = 200, seed: int = 0
) -> DomainPreference:
    """Shares against `draws` shuffles of the sequences' labels.

    counts_NLE int: selections of each sequence. The line is the 95% quantile over shuffles of the largest standardised
    cell; nothing lies beyond it in a layer whose experts every sequence uses alike, or in text of one domain.
    """
    share_DLE = selection_share_DLE(counts_NLE=counts_NLE, domain_N=domain_N, domains=domains)
    # Twice, as the shares of all shuffles at once do not fit in memory for hundreds of experts. As differences, which are 0
    # where no shuffle changes anything: rounding would be a spread that the share itself lies beyond.
    total, square = torch.zeros_like(share_DLE), torch.zeros_like(share_DLE)
    for labels_N in shuffles(domain_N, draws=draws, seed=seed):
        drawn = selection_share_DLE(counts_NLE=counts_NLE, domain_N=labels_N, domains=domains) - share_DLE
        total += drawn
        square += drawn.square()
    mean_DLE = share_DLE + total / draws
    spread_DLE = (square / draws - (total / draws).square()).clamp(min=0).sqrt()
    safe = spread_DLE.clamp(min=1e-12)
    largest = [
        float(((selection_share_DLE(counts_NLE=counts_NLE, domain_N=n, domains=domains) - mean_DLE) / safe).max())
        for n in shuffles(domain_N, draws=draws, seed=seed)
    ]
    return DomainPreference(share_DLE, mean_DLE, spread_DLE, float(np.quantile(largest, 1 - LEVEL)))


class Word(NamedTuple):
    """One row of an expert's words: the token id, how often the expert took it and was expected to, and the chance
    that any word of the layer's experts would be taken as often were there no preference, at most 1."""

    token: int
    taken: int
    expected: float
    chance: float


def word_preference(
    *, token_T: Tensor, indices_TK: Tensor, domain_T: Tensor, experts: int, most: int = 10, tests: int | None = None
) -> list[list[Word]]:
    """Of one layer: for each expert up to `most` words that it takes more often than chance, surest first.

    token_T, domain_T int64 [T]; indices_TK int64 [T, K]. Of n occurrences of a word in a domain of which the expert takes
    the share p, n x p are expected; the sum over domains is at most as spread as a binomial of the same mean (Hoeffding
    1956), whose upper tail x `tests` (Bonferroni; default: words x experts of this layer) is the chance.
    """
    words, word_T = torch.unique(token_T, return_inverse=True)
    count, domains = len(words), int(domain_T.max()) + 1
    chosen_TK = indices_TK.long()
    cell_TK = chosen_TK * count + word_T[:, None]
    taken_EW = torch.bincount(cell_TK.flatten(), minlength=experts * count).view(experts, count).numpy()
    n_DW = torch.bincount(domain_T * count + word_T, minlength=domains * count).view(domains, count).double()
    load_DE = torch.bincount((domain_T[:, None] * experts + chosen_TK).flatten(), minlength=domains * experts)
    load_DE = load_DE.view(domains, experts).double() / n_DW.sum(1).clamp(min=1)[:, None]
    expected_EW = (load_DE.T @ n_DW).numpy()
    n_W = n_DW.sum(0).numpy()
    chance_EW = as_many(taken_EW, n_W[None].astype(int), np.clip(expected_EW / n_W, 0, 1))
    chance_EW = np.minimum(1, chance_EW * (tests or experts * count))
    return [
        [
            Word(int(words[w]), int(taken_EW[e, w]), float(expected_EW[e, w]), float(chance_EW[e, w]))
            for w in np.lexsort((-taken_EW[e], chance_EW[e]))[:most]
            if chance_EW[e, w] <= LEVEL
        ]
        for e in range(experts)
    ]


class Companion(NamedTuple):
    """Another expert that takes the same tokens more often than chance: how often, and how often was expected."""

    expert: int
    together: int
    expected: float


def companions(*, pairs_EE: Tensor, most: int = 3) -> list[list[Companion]]:
    """Of one layer: for each expert up to `most` others that it goes with, surest first.

    pairs_EE int64 [E, E]: tokens that two experts share, their own number on the diagonal, as `count_pairs` gives them.
    Were the others chosen without regard to this one, each of its tokens would hold them by their load among the K - 1
    further places; upper tail x number of pairs at most 5%.
    """
    own_E = pairs_EE.diagonal().double()
    further_E = (pairs_EE.sum(1) - pairs_EE.diagonal()).double()
    others_EE = own_E[None].expand_as(pairs_EE).clone().fill_diagonal_(0)
    expected_EE = further_E[:, None] * others_EE / others_EE.sum(1, keepdim=True).clamp(min=1)
    rate_EE = (expected_EE / own_E.clamp(min=1)[:, None]).clamp(max=1)
    chance_EE = as_many(pairs_EE.numpy(), own_E.long().numpy()[:, None], rate_EE.numpy())
    chance_EE = chance_EE * pairs_EE.numel()
    np.fill_diagonal(chance_EE, 1.0)
    return [
        [
            Companion(int(other), int(pairs_EE[e, other]), float(expected_EE[e, other]))
            for other in np.argsort(chance_EE[e], kind="stable")[:most]
            if chance_EE[e, other] <= LEVEL
        ]
        for e in range(len(own_E))
    ]


def as_many(k: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The chance of k or more of n draws that succeed with p each."""
    # Asked for behind a run's last step; scipy.stats, whose binom.sf is this function, takes longer to import.
    from scipy.special import betainc

    return np.where(k > 0, betainc(np.maximum(k, 1), n - k + 1, p), 1.0)
