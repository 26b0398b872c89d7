"""Planted effects get the verdict they deserve; rates are checked over many draws, so a wrong side or bound shows."""

import math

import numpy as np
import pytest
from scipy import stats

from lightning_modules.claims.statistics import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    find,
    holm,
    interval,
    verdict,
)

MARGIN = 0.1


def said(effects, rule, *, needed=5, tests=1):
    """The verdict with Holm's correction as the smallest of `tests` p values."""
    found = find(effects, rule=rule, margin=MARGIN)
    corrected = holm([found.p_for, *[1.0] * (tests - 1)])[0]
    return verdict(found, p_holm=corrected, rule=rule, margin=MARGIN, needed=needed)


def shares(mean, spread, rule, *, draws=60, seeds=5):
    draw = np.random.default_rng(0)
    verdicts = [said(draw.normal(mean, spread, seeds), rule) for _ in range(draws)]
    return {v: verdicts.count(v) / draws for v in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)}


@pytest.mark.parametrize(
    ("mean", "spread", "rule", "expected"),
    [
        (0.5, 0.05, "superiority", REPRODUCED),
        (0.0, 0.02, "superiority", NOT_REPRODUCED),
        (-0.5, 0.05, "superiority", NOT_REPRODUCED),
        (0.0, 0.02, "noninferiority", REPRODUCED),
        (0.5, 0.05, "noninferiority", REPRODUCED),
        (-0.5, 0.05, "noninferiority", NOT_REPRODUCED),
        (0.0, 0.02, "equivalence", REPRODUCED),
        (0.5, 0.05, "equivalence", NOT_REPRODUCED),
        (-0.5, 0.05, "equivalence", NOT_REPRODUCED),
    ],
)
@pytest.mark.slow
def test_a_planted_effect_is_called_rightly(mean, spread, rule, expected):
    assert shares(mean, spread, rule)[expected] > 0.9


@pytest.mark.parametrize("rule", ["superiority", "noninferiority", "equivalence"])
def test_a_too_noisy_effect_is_inconclusive(rule):
    found = shares(0.0, 1.0, rule)
    assert found[INCONCLUSIVE] > 0.8
    assert found[REPRODUCED] < 0.06


def test_without_an_effect_superiority_is_rarely_claimed():
    assert shares(0.0, 0.3, "superiority", draws=200)[REPRODUCED] <= 0.06


def test_a_real_effect_below_the_margin_is_not_reproduced():
    assert said([0.049, 0.05, 0.051, 0.05, 0.05], "superiority") == NOT_REPRODUCED


def test_too_few_seeds_are_inconclusive_whatever_they_say():
    assert said([0.5, 0.51, 0.49, 0.5], "superiority") == INCONCLUSIVE
    assert said([0.5, 0.51, 0.49, 0.5, 0.5], "superiority") == REPRODUCED
    assert said([0.5], "superiority", needed=5) == INCONCLUSIVE


def test_other_claims_of_the_paper_raise_the_bar():
    effects = [0.05, 0.3, 0.1, 0.25, 0.15]
    assert said(effects, "superiority") == REPRODUCED
    assert said(effects, "superiority", tests=17) == INCONCLUSIVE


def test_p_values_are_scipys_paired_test():
    a, b = np.array([3.0, 3.4, 3.1, 3.3, 3.2]), np.array([2.9, 3.1, 3.0, 3.05, 3.0])
    found = find(a - b, rule="superiority", margin=MARGIN)
    assert found.p_for == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue, abs=1e-12)
    lower = find(a - b, rule="noninferiority", margin=MARGIN)
    assert lower.p_for == pytest.approx(stats.ttest_1samp(a - b, -MARGIN, alternative="greater").pvalue, abs=1e-12)


def test_holm_is_the_textbook_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # One that was not done yet belongs to the family all the same.
    assert holm([0.5, math.nan, 0.01])[2] == pytest.approx(0.03)
    assert math.isnan(holm([0.5, math.nan, 0.01])[1])


def test_the_interval_is_scipys_bootstrap_and_the_same_every_time():
    effects = np.random.default_rng(0).normal(0.3, 0.1, 12)
    assert interval(effects) == interval(effects)
    low, high = interval(effects)
    assert effects.min() <= low < effects.mean() < high <= effects.max()
    assert interval(np.full(5, 0.3)) == (0.3, 0.3)


def test_rounding_in_a_sum_moves_no_interval():
    """Python 3.12 adds floats otherwise than 3.11: a thirtieth of the resamples of five is the sample in another order."""
    effects_S = np.array([0.1, 0.2, 0.3, 0.4, 0.7])
    other_S = (effects_S + 7) - 7
    assert 0 < np.abs(other_S - effects_S).max() < 1e-15
    assert interval(other_S) == pytest.approx(interval(effects_S), rel=1e-9)


def test_no_number_is_no_effect():
    for effects in ([], [0.1, math.nan]):
        with pytest.raises(ValueError, match="at least one, all finite"):
            find(effects, rule="superiority", margin=MARGIN)
