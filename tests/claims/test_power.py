"""Power against statsmodels, against simulation of the very test that a verdict uses, and the sensitivity to the margin."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_modules.claims import power
from lightning_modules.claims import statistics as st

RULES = ("superiority", "noninferiority", "equivalence")


# statsmodels 0.15.0: TTestPower().power(effect_size, n, alpha, alternative="larger").
STATSMODELS = (
    (0.5, 27, 0.05, 0.811831551708168),
    (0.5, 20, 0.05, 0.6951493382443411),
    (1.0, 8, 0.05, 0.8150194415569083),
    (1.2, 5, 0.0029, 0.12586319931953693),
    (0.4, 40, 0.01, 0.5460101222900979),
)


@pytest.mark.parametrize(("effect_size", "n", "alpha", "expected"), STATSMODELS)
def test_power_of_a_t_test_is_that_of_statsmodels(effect_size, n, alpha, expected):
    for rule in ("superiority", "noninferiority"):
        assert power.power(1 / effect_size, n, rule=rule, margin=1.0, alpha=alpha) == pytest.approx(expected, abs=1e-9)


def test_the_seeds_asked_for_are_those_of_statsmodels():
    """TTestPower().solve_power(0.35, None, 0.0029, 0.8, alternative="larger") is 109.64."""
    assert power.seeds_for(1 / 0.35, rule="superiority", margin=1.0, alpha=0.0029) == 110


def simulated(rule, *, spread, n, margin, alpha, draws=4000):
    """Share of series whose p_for is below alpha, were the claim just true."""
    truth = margin if rule == "superiority" else 0.0
    series = np.random.default_rng(0).normal(truth, spread, (draws, n))
    mean, error = series.mean(1), series.std(1, ddof=1) / math.sqrt(n)
    critical = stats.t.isf(alpha, n - 1)
    above = {"superiority": mean > critical * error}.get(rule, mean + margin > critical * error)
    return (above & (margin - mean > critical * error)).mean() if rule == "equivalence" else above.mean()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("n", "alpha", "spread"), [(5, 0.05, 0.07), (5, 0.003, 0.03), (10, 0.01, 0.1)])
def test_power_is_the_share_of_simulated_series(rule, n, alpha, spread):
    expected = simulated(rule, spread=spread, n=n, margin=0.1, alpha=alpha)
    assert power.power(spread, n, rule=rule, margin=0.1, alpha=alpha) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9, 1e-12, 0.0])
@pytest.mark.parametrize("rule", RULES)
def test_where_seeds_hardly_differ_the_margin_is_seen(rule, spread):
    """The integral's peak lies far below its end there, and was passed over."""
    assert power.power(spread, 5, rule=rule, margin=0.01, alpha=0.05) == pytest.approx(1.0, abs=1e-6)
    assert power.seeds_for(spread, rule=rule, margin=0.01, alpha=0.05) == 5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.slow
def test_the_simulated_test_is_the_one_of_the_verdict(rule):
    """So that power is that of `statistics.find`, not of a test that only looks like it."""
    draw, hits, alpha = np.random.default_rng(1), 0, 0.05
    truth = 0.1 if rule == "superiority" else 0.0
    for _ in range(200):
        effects = draw.normal(truth, 0.08, 5)
        hits += st.find(effects, rule=rule, margin=0.1).p_for < alpha
    assert hits / 200 == pytest.approx(power.power(0.08, 5, rule=rule, margin=0.1, alpha=alpha), abs=0.1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spread", [0.05, 0.2, 1.0])
def test_the_seeds_asked_for_are_the_fewest_with_eighty_percent(rule, spread):
    n = power.seeds_for(spread, rule=rule, margin=0.1, alpha=0.01)

    def at(n):
        return power.power(spread, n, rule=rule, margin=0.1, alpha=0.01)

    assert at(n) >= power.WANTED
    assert n == power.FEWEST or at(n - 1) < power.WANTED


def test_where_power_says_nothing_it_says_so():
    assert math.isnan(power.power(math.nan, 1, rule="superiority", margin=0.1, alpha=0.05))
    assert power.power(0.0, 5, rule="equivalence", margin=0.1, alpha=0.05) == 1.0
    assert power.seeds_for(math.nan, rule="superiority", margin=0.1, alpha=0.05) is None
    assert power.seeds_for(1e6, rule="superiority", margin=0.1, alpha=0.05) is None
    assert math.isnan(power.spread([0.5]))


def test_a_verdict_that_hangs_on_the_margin_shows():
    clear, near = [0.5, 0.55, 0.45, 0.5, 0.5], [0.15, 0.16, 0.14, 0.15, 0.15]
    told = {"rule": "superiority", "margin": 0.1, "needed": 5, "others": []}
    assert power.sensitivity(clear, **told) == {"0.5": st.REPRODUCED, "2": st.REPRODUCED}
    assert power.sensitivity(near, **told) == {"0.5": st.REPRODUCED, "2": st.NOT_REPRODUCED}


def test_sensitivity_is_corrected_for_the_other_claims():
    effects = [0.05, 0.3, 0.1, 0.25, 0.15]
    told = {"rule": "superiority", "margin": 0.1, "needed": 5}
    assert power.sensitivity(effects, others=[], **told)["0.5"] == st.REPRODUCED
    assert power.sensitivity(effects, others=[1.0] * 16, **told)["0.5"] == st.INCONCLUSIVE
