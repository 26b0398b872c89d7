"""What the experts specialise in, on routings whose answer is known, and its drawing."""

import math

import pytest
import torch

from lightning_modules.common import metric_names as names
from lightning_modules.common.style import save
from lightning_modules.moe import figures as draw
from lightning_modules.moe import specialization as measure
from lightning_modules.moe.held_out import DomainPerplexity, RoutingTally
from lightning_modules.moe.routing import RouterStats

DOMAINS, PER_DOMAIN, LAYERS, EXPERTS = 4, 8, 3, 8


def routing(kind, seed=0):
    """(counts_NLE, domain_N): each domain on experts of its own, or all alike."""
    generator = torch.Generator().manual_seed(seed)
    domain_N = torch.arange(DOMAINS).repeat_interleave(PER_DOMAIN)
    counts = torch.zeros(DOMAINS * PER_DOMAIN, LAYERS, EXPERTS, dtype=torch.int64)
    if kind == "own":
        for n, d in enumerate(domain_N):
            counts[n, :, 2 * d : 2 * d + 2] = 50
    else:
        counts = torch.multinomial(
            torch.ones(len(counts) * LAYERS, EXPERTS), 100, replacement=True, generator=generator
        )
        counts = torch.nn.functional.one_hot(counts, EXPERTS).sum(1).view(-1, LAYERS, EXPERTS)
    return counts, domain_N


def labels(counts_NLE, domain_N):
    return {"counts_NLE": counts_NLE, "domain_N": domain_N, "domains": DOMAINS}


def test_information_is_log_domains_for_experts_of_their_own_and_the_baseline_for_experts_that_do_not_care():
    own, alike = labels(*routing("own")), labels(*routing("alike"))
    assert torch.allclose(measure.mutual_information_L(**own), torch.full((LAYERS,), math.log(DOMAINS)).double())
    assert measure.mutual_information_baseline(**own, draws=20).mean() < 0.4
    found = measure.mutual_information_L(**alike).mean()
    shuffled = measure.mutual_information_baseline(**alike, draws=50)
    assert shuffled.shape == (50, LAYERS)
    assert shuffled.mean(1).quantile(0.01) < found < shuffled.mean(1).quantile(0.99)
    assert found < 0.02


def test_information_weighs_domains_equally():
    """A domain with ten times the text changes nothing when its routing is the same."""
    counts, domain_N = routing("own")
    heavy = counts * torch.where(domain_N == 0, 10, 1)[:, None, None]
    assert torch.allclose(
        measure.mutual_information_L(**labels(heavy, domain_N)),
        measure.mutual_information_L(**labels(counts, domain_N)),
    )


def test_total_variation_and_top_share():
    own = measure.selection_share_DLE(**labels(*routing("own")))
    assert torch.allclose(measure.total_variation_L(share_DLE=own), torch.ones(LAYERS).double())
    assert torch.allclose(measure.top_share_D(share_DLE=own), torch.full((DOMAINS,), 0.5).double())
    alike = torch.full((DOMAINS, LAYERS, EXPERTS), 1 / EXPERTS).double()
    assert float(measure.total_variation_L(share_DLE=alike).abs().max()) == 0


def test_max_violation_and_dead_experts():
    counts_LE = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0]])
    assert measure.max_violation(counts_LE=counts_LE).tolist() == [0, 3, 1]
    assert float(measure.dead_experts(counts_LE=counts_LE)) == pytest.approx(5 / 12)
    assert measure.load_entropy(counts_LE=counts_LE).tolist() == pytest.approx([math.log(4), 0, math.log(2)])


def test_topk_score_is_a_mean_over_tokens_not_over_sequences():
    score_DL = measure.topk_score_DL(
        topk_score_NL=torch.tensor([[3.0], [1.0]]),
        tokens_N=torch.tensor([4, 1]),
        domain_N=torch.tensor([0, 0]),
        domains=2,
    )
    assert score_DL.tolist() == [[pytest.approx(0.8)], [0.0]]


def test_coactivation_counts_tokens_that_chose_both():
    indices_TK = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 2]])
    pairs = measure.count_pairs(indices_TK=indices_TK, experts=4)
    assert pairs.diagonal().tolist() == [3, 2, 2, 1]
    jaccard = measure.coactivation_LEE(pairs_LEE=pairs[None])[0]
    assert jaccard[0, 1] == pytest.approx(2 / 3)
    assert jaccard[0, 3] == 0
    assert jaccard.diagonal().tolist() == [1, 1, 1, 1]


def stats_of(seed, sequences=4, tokens=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(LAYERS, sequences * tokens, EXPERTS, generator=generator)
    valid = torch.rand(sequences * tokens, generator=generator) > 0.2
    return RouterStats(logits, logits.topk(2).indices, valid, sequences)


def test_the_tally_is_the_same_in_one_update_or_two():
    """Sequences arrive in batches; the tally of all must not notice, and must leave padding out."""
    both, parts = RoutingTally(), RoutingTally()
    first, second = stats_of(0), stats_of(1)
    joined = RouterStats(
        torch.cat([first.logits_LTE, second.logits_LTE], 1),
        torch.cat([first.indices_LTK, second.indices_LTK], 1),
        torch.cat([first.valid_T, second.valid_T]),
        8,
    )
    domain = torch.arange(8) % DOMAINS
    both.update(joined, domain)
    parts.update(first, domain[:4])
    parts.update(second, domain[4:])
    one, two = both.compute(), parts.compute()
    for name in one:
        torch.testing.assert_close(one[name], two[name], msg=lambda m, n=name: f"{n}: {m}")
    assert int(one["counts_NLE"].sum()) == LAYERS * 2 * int(joined.valid_T.sum())
    assert int(one["pairs_LEE"].diagonal(dim1=1, dim2=2).sum()) == int(one["counts_NLE"].sum())
    chosen = joined.probs_LTE[:, joined.valid_T].topk(2).values.sum(-1)
    total = one["topk_score_NL"].sum(0) / one["tokens_N"].sum()
    torch.testing.assert_close(total, chosen.mean(1))
    probs = joined.probs_LTE[:, joined.valid_T]
    assert float(one["entropy"]) == pytest.approx(float(-(probs * probs.log()).sum(-1).mean()), abs=1e-5)


def test_perplexity_is_over_tokens():
    metric = DomainPerplexity(2)
    metric.update(torch.tensor([2.0, 9.0]), torch.tensor([1, 9]), torch.tensor([0, 1]))
    metric.update(torch.tensor([4.0]), torch.tensor([2]), torch.tensor([0]))
    overall, by_domain = metric.compute()
    assert overall == pytest.approx(math.exp(15 / 12))
    assert by_domain == pytest.approx([math.exp(2), math.e])


def test_one_domain_alone_has_its_perplexity():
    metric = DomainPerplexity(1)
    metric.update(torch.tensor([2.0]), torch.tensor([1]), torch.tensor([0]))
    assert metric.compute() == (pytest.approx(math.exp(2)), [pytest.approx(math.exp(2))])


def test_a_domain_without_tokens_has_no_perplexity_and_not_the_best_one():
    metric = DomainPerplexity(2)
    metric.update(torch.tensor([2.0]), torch.tensor([1]), torch.tensor([0]))
    assert math.isnan(metric.compute()[1][1])
    assert metric.metrics("val", ["a", "b"]) == dict.fromkeys(["val/ppl", "val/ppl_a"], pytest.approx(math.exp(2)))


def test_the_summary_names_are_bounded_scalars():
    counts, domain_N = routing("own")
    found = measure.summary(
        counts_NLE=counts,
        domain_N=domain_N,
        topk_score_NL=torch.full((32, LAYERS), 40.0),
        tokens_N=torch.full((32,), 50),
        draws=20,
    )
    assert found[names.MOE_TOPK_SCORE_SUM] == pytest.approx(0.8)
    assert found["moe/mutual_information"] > found["moe/mutual_information_shuffled_q95"] > 0
    assert found[names.MOE_MAXVIO_GLOBAL] == pytest.approx(0)
    assert found["moe/maxvio_sequence"] == pytest.approx(EXPERTS / 2 - 1)


def test_a_domain_without_a_sequence_changes_no_measure_and_no_figure():
    counts, domain_N = routing("alike")
    scored = dict(topk_score_NL=torch.full((32, LAYERS), 40.0), tokens_N=torch.full((32,), 50))
    tally = dict(counts_NLE=counts, pairs_LEE=torch.eye(EXPERTS).long().expand(LAYERS, -1, -1), **scored)
    # Of domains 0 to 6, whose every other one has no text.
    found, expected = (
        measure.summary(counts_NLE=counts, domain_N=labels_N, **scored, draws=20)
        for labels_N in (2 * domain_N, domain_N)
    )
    assert found == expected
    figures = draw.of_routing(tally={**tally, "domain_N": 2 * domain_N}, domains=list("abcdefg"), top_k=2)
    titles = [axis.get_title() for axis in figures["selection_heatmap"].axes if axis.images and axis.get_title()]
    assert titles == list("aceg")
    assert figures["topk_score_sum"].axes[0].get_legend_handles_labels()[1] == list("aceg")


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "experts", "domains"), [(1, 2, 2), (4, 16, 7), (13, 64, 9)])
def test_every_figure_draws_at_any_size(layers, experts, domains, tmp_path):
    share = torch.rand(domains, layers, experts).softmax(-1).double()
    titles = [f"domain {i}" for i in range(domains)]
    figures = {
        "selection": draw.selection_heatmap(share_DLE=share, domains=titles),
        "compare": draw.compare_heatmaps(runs={"micro": share, "global": share}, domains=titles),
        "score": draw.topk_score_figure(score_DL=share.amax(-1), domains=titles, floor=0.1),
        "together": draw.coactivation_figure(
            pairs_LEE=torch.randint(1, 9, (layers, experts, experts)) + 9 * torch.eye(experts).long()
        ),
        "load": draw.load_over_training(steps=[1, 2, 3], loads_SLE=[share[0]] * 3),
        "scopes": draw.lbl_scopes_figure(
            history=[{"step": s, "moe/lbl_sequence": 2.0, "moe/lbl_micro": 1.5, "moe/lbl_global": 1.0} for s in (1, 2)]
        ),
    }
    for name, figure in figures.items():
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 4000
    panels = [a for a in figures["selection"].axes if a.images and a.get_title()]
    assert [a.get_title() for a in panels] == titles
    assert torch.equal(torch.from_numpy(panels[0].images[0].get_array().data), share[0])


@pytest.mark.parametrize("sizes", [(4, 8), (6, 5, 4), (3, 9), (1, 2)])
def test_a_micro_batch_is_of_one_domain_and_whole(sizes):
    """Whatever the domains before it hold; one that fills none is measured by what it has."""
    domain_N = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    group_N = measure.micro_batches(domain_N=domain_N, size=4)
    for domain, size in enumerate(sizes):
        own = group_N[domain_N == domain]
        expected = [4] * (size // 4) or [size]
        assert own[own >= 0].unique(return_counts=True)[1].tolist() == expected
        assert (own >= 0).int().diff().le(0).all(), "the first ones, in their order"
    assert group_N[group_N >= 0].unique().tolist() == list(range(int(group_N.max()) + 1))
