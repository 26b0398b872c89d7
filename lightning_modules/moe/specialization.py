"""What the experts specialise in, from who-went-where counts on held-out text.

Shape legend: N sequences, D domains, L layers, E experts, K selected experts a token, T tokens. `domain_N` int64 [N].
Source: Qiu et al. 2025, section 4 (selection shares, top-k score sum); MaxVio is Wang et al. 2024, equation 4.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_modules.moe.losses import Frequency, lbl_per_block


def over_groups(values_NX: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Each group's sum over its sequences, float64 [groups, ...], in which counts stay exact. group_N: int64."""
    return torch.zeros(groups, *values_NX.shape[1:], dtype=torch.float64).index_add_(0, group_N, values_NX.double())


def with_text(*, domain_N: Tensor, domains: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
    """Without the domains that have no sequence, whose zeros would be measured as a routing: the numbers of those that
    have, ascending, the labels among them [N], and their names."""
    here, label_N = domain_N.unique(return_inverse=True)
    return here, label_N, [domains[d] for d in here.tolist()]


def selection_share_DLE(*, counts_NLE: Tensor, domain_N: Tensor, domains: int) -> Tensor:
    """Share of a domain's selections in a layer that went to each expert; sums to 1 over E (figure 3).

    Of every domain there is a sequence (`with_text`), here and below.
    """
    counts_DLE = over_groups(counts_NLE, domain_N, domains)
    return counts_DLE / counts_DLE.sum(-1, keepdim=True).clamp(min=1)


def kept_share(tally: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
    """(share_DLE, names of the domains) of what a run kept as routing_test.pt."""
    _, domain_N, domains = with_text(domain_N=tally["domain_N"], domains=tally["domains"])
    return selection_share_DLE(counts_NLE=tally["counts_NLE"], domain_N=domain_N, domains=len(domains)), domains


def topk_score_DL(*, topk_score_NL: Tensor, tokens_N: Tensor, domain_N: Tensor, domains: int) -> Tensor:
    """Mean over tokens of the sum of the selected softmax scores, [D, L]; the floor is K/E (figure 4)."""
    tokens_D = over_groups(tokens_N, domain_N, domains)
    return over_groups(topk_score_NL, domain_N, domains) / tokens_D.clamp(min=1)[:, None]


def mutual_information_L(*, counts_NLE: Tensor, domain_N: Tensor, domains: int) -> Tensor:
    """I(expert; domain) in nats per layer, domains weighted equally: 0 to log min(D, E)."""
    return _information(selection_share_DLE(counts_NLE=counts_NLE, domain_N=domain_N, domains=domains))


def _information(share_DLE: Tensor) -> Tensor:
    """Mean over domains of KL(domain's experts || all domains' experts), per layer."""
    mean_LE = share_DLE.mean(0)
    return (torch.xlogy(share_DLE, share_DLE) - torch.xlogy(share_DLE, mean_LE)).sum(-1).mean(0)


def mutual_information_baseline(
    *, counts_NLE: Tensor, domain_N: Tensor, domains: int, draws: int = 100, seed: int = 0
) -> Tensor:
    """The same with sequence labels shuffled: what finite samples alone give, [draws, L]."""
    return torch.stack(
        [
            mutual_information_L(counts_NLE=counts_NLE, domain_N=labels_N, domains=domains)
            for labels_N in shuffles(domain_N, draws=draws, seed=seed)
        ]
    )


def shuffles(domain_N: Tensor, *, draws: int, seed: int) -> Iterator[Tensor]:
    """The labels in another order, `draws` times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        yield domain_N[torch.randperm(len(domain_N), generator=generator)]


def max_violation(*, counts_LE: Tensor) -> Tensor:
    """MaxVio = largest load / mean load - 1 over the last axis: 0 is balance, E - 1 is collapse. [..., E] -> [...]."""
    counts = counts_LE.double()
    return counts.amax(-1) / counts.mean(-1).clamp(min=1e-9) - 1


def dead_experts(*, counts_LE: Tensor, threshold: float = 0.01) -> Tensor:
    """Share of (layer, expert) pairs whose load is below `threshold` x the mean load."""
    counts = counts_LE.double()
    return (counts < threshold * counts.mean(-1, keepdim=True)).double().mean()


def load_entropy(*, counts_LE: Tensor) -> Tensor:
    """Entropy of the load in nats per layer, at most log E."""
    load = counts_LE.double() / counts_LE.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(load, load).sum(-1)


def balance_over(
    *, counts_NLE: Tensor, prob_sums_NLE: Tensor, tokens_N: Tensor, group_N: Tensor
) -> tuple[float, float]:
    """(load-balancing loss, MaxVio) with f and P taken over groups of sequences, means over groups and layers.

    prob_sums_NLE: sums of P over a sequence's tokens. group_N: int64, the group of each sequence. From one sequence a
    group to all in one: the scopes that a loss may have (Qiu et al. 2025, section 2.2).
    """
    groups = int(group_N.max()) + 1
    counts_LGE = over_groups(counts_NLE, group_N, groups).transpose(0, 1)
    sums_LGE = over_groups(prob_sums_NLE, group_N, groups).transpose(0, 1)
    frequency = Frequency(counts_LGE, over_groups(tokens_N, group_N, groups).expand(len(counts_LGE), -1))
    lbl_LG = lbl_per_block(frequency=frequency, prob_sums_LME=sums_LGE)
    return float(lbl_LG.mean()), float(max_violation(counts_LE=counts_LGE).mean())


def micro_batches(*, domain_N: Tensor, size: int) -> Tensor:
    """The micro-batch of each sequence, int64 [N]: `size` of one domain, in their order, as in training.

    -1 for those that fill none, but a domain that fills none at all is one of its own.
    """
    group_N, made = torch.full_like(domain_N, -1), 0
    for domain in domain_N.unique():
        own = (domain_N == domain).nonzero()[:, 0]
        whole = own[: max(len(own) // size * size, min(size, len(own)))]
        group_N[whole] = made + torch.arange(len(whole)) // size
        made = int(group_N.max()) + 1
    return group_N


def total_variation_L(*, share_DLE: Tensor) -> Tensor:
    """Mean over pairs of domains of the total-variation distance between their routing, per layer: 0 to 1."""
    domains = share_DLE.shape[0]
    distance_DDL = (share_DLE[:, None] - share_DLE[None]).abs().sum(-1) / 2
    return distance_DDL.sum((0, 1)) / max(1, domains * (domains - 1))


def top_share_D(*, share_DLE: Tensor) -> Tensor:
    """Largest share of a domain's selections that one expert takes, over layers: above 0.2 in maths (section 4)."""
    return share_DLE.amax((1, 2))


def count_pairs(*, indices_TK: Tensor, experts: int) -> Tensor:
    """How often two experts were selected by the same token, int64 [E, E]; the diagonal counts selections."""
    chosen_TE = torch.zeros(indices_TK.shape[0], experts, device=indices_TK.device)
    chosen_TE.scatter_(1, indices_TK, 1.0)
    # float32 is exact up to 2^24 tokens a call.
    return (chosen_TE.T @ chosen_TE).round().to(torch.int64)


def coactivation_LEE(*, pairs_LEE: Tensor) -> Tensor:
    """Jaccard index of two experts' tokens: 1 on the diagonal, 0 when they never meet. [L, E, E]."""
    pairs = pairs_LEE.double()
    own_LE = pairs.diagonal(dim1=-2, dim2=-1)
    union = own_LE[..., :, None] + own_LE[..., None, :] - pairs
    return pairs / union.clamp(min=1)


def summary(
    *, counts_NLE: Tensor, domain_N: Tensor, topk_score_NL: Tensor, tokens_N: Tensor, draws: int = 100
) -> dict[str, float]:
    """Bounded scalars for the tracker, means over layers; names as in `metric_names`, prefix `moe/`."""
    # Of domains without a sequence nothing was measured.
    present_D, domain_N = domain_N.unique(return_inverse=True)
    domains = len(present_D)
    share_DLE = selection_share_DLE(counts_NLE=counts_NLE, domain_N=domain_N, domains=domains)
    counts_LE = counts_NLE.sum(0)
    score_DL = topk_score_DL(topk_score_NL=topk_score_NL, tokens_N=tokens_N, domain_N=domain_N, domains=domains)
    shuffled = mutual_information_baseline(counts_NLE=counts_NLE, domain_N=domain_N, domains=domains, draws=draws)
    return {
        "moe/mutual_information": float(_information(share_DLE).mean()),
        "moe/mutual_information_shuffled": float(shuffled.mean()),
        "moe/mutual_information_shuffled_q95": float(shuffled.mean(1).quantile(0.95)),
        "moe/topk_score_sum": float(score_DL.mean()),
        "moe/maxvio_global": float(max_violation(counts_LE=counts_LE).mean()),
        "moe/maxvio_sequence": float(max_violation(counts_LE=counts_NLE).mean()),
        "moe/dead_experts": float(dead_experts(counts_LE=counts_LE)),
        "moe/load_entropy": float(load_entropy(counts_LE=counts_LE).mean()),
        "moe/total_variation": float(total_variation_L(share_DLE=share_DLE).mean()),
        "moe/top_share": float(top_share_D(share_DLE=share_DLE).mean()),
    }


def tested(tally: Mapping[str, Tensor], *, draws: int) -> dict[str, float]:
    """`summary` and the entropy of the routing of the test split, as `held_out.RoutingTally` counted it; prefix `test/`."""
    per_sequence = {name: tally[name] for name in ("counts_NLE", "domain_N", "topk_score_NL", "tokens_N")}
    found = {f"test/{n.split('/')[1]}": v for n, v in summary(**per_sequence, draws=draws).items()}
    return {**found, "test/routing_entropy": float(tally["entropy"])}
