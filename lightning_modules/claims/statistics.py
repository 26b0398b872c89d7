"""From the effects of seeds to a verdict. Pure functions on numbers; effects are signed so that the paper's is positive."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05
RESAMPLES = 9999
Rule = Literal["superiority", "noninferiority", "equivalence"]
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"


class Finding(NamedTuple):
    """Mean of `n` paired effects with its 95% bootstrap interval.

    p_for: of the hypothesis that the rule's statement is false (small: the statement stands). p_against: of the
    hypothesis that it is true. Both are one-sided paired t tests; an equivalence is two one-sided tests.
    """

    n: int
    effect: float
    low: float
    high: float
    p_for: float
    p_against: float


def find(effects: Sequence[float], *, rule: Rule, margin: float) -> Finding:
    """ValueError without an effect; with a single one the interval and both p are nan."""
    effects_S = np.asarray(effects, dtype=float)
    if not len(effects_S) or not np.isfinite(effects_S).all():
        raise ValueError(f"effects are {list(effects)}; expected at least one, all finite.")
    low, high = interval(effects_S)
    if rule == "superiority":
        p_for, p_against = _above(effects_S, 0.0), _below(effects_S, margin)
    elif rule == "noninferiority":
        p_for, p_against = _above(effects_S, -margin), _below(effects_S, -margin)
    else:
        p_for = max(_above(effects_S, -margin), _below(effects_S, margin))
        p_against = min(1.0, 2 * min(_above(effects_S, margin), _below(effects_S, -margin)))
    return Finding(len(effects_S), float(effects_S.mean()), low, high, p_for, p_against)


def interval(effects_S: np.ndarray) -> tuple[float, float]:
    """95% bias-corrected and accelerated bootstrap interval of the mean; the same for the same effects.

    One resample of 26 of five effects is these in another order. Its mean is the estimate itself, and counts half for the
    bias; rounding in a sum would put it on either side. So sums are of whole numbers, trillionths of the range, and exact.
    """
    if len(effects_S) < 2:
        return float("nan"), float("nan")
    if np.ptp(effects_S) == 0:
        return float(effects_S[0]), float(effects_S[0])
    lowest, unit = effects_S.min(), np.ptp(effects_S) / 2**40
    whole_S = np.round((effects_S - lowest) / unit)
    found = stats.bootstrap(
        (whole_S,), np.mean, n_resamples=RESAMPLES, confidence_level=1 - ALPHA, method="BCa", rng=0
    ).confidence_interval
    return float(lowest + unit * found.low), float(lowest + unit * found.high)


def verdict(found: Finding, *, p_holm: float, rule: Rule, margin: float, needed: int) -> str:
    """The rule, fixed beforehand.

    reproduced: interval and corrected test are on the statement's side (a superiority is at least the margin too).
    not reproduced: interval and test, by itself and not corrected, exclude the statement; of a superiority, any effect as
    large as the margin.
    inconclusive: neither, or fewer than `needed` seeds.

    Five seeds make a bootstrap interval too narrow, which is why the t test has to agree.
    """
    if found.n < needed:
        return INCONCLUSIVE
    stands, falls = {
        "superiority": (found.low > 0 and found.effect >= margin, found.high < margin),
        "noninferiority": (found.low > -margin, found.high < -margin),
        "equivalence": (-margin < found.low and found.high < margin, found.low > margin or found.high < -margin),
    }[rule]
    if stands and p_holm < ALPHA:
        return REPRODUCED
    return NOT_REPRODUCED if falls and found.p_against < ALPHA else INCONCLUSIVE


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction over a family of tests, in the order given.

    nan, of a test that belongs to the family and was not done yet, stays and counts: what is corrected does not hang on
    what else happened to be run.
    """
    p_P = np.asarray(p_values, dtype=float)
    # nan is sorted behind all others.
    order, left_P = np.argsort(p_P), len(p_P) - np.arange(len(p_P))
    adjusted_P = np.empty(len(p_P))
    adjusted_P[order] = np.maximum.accumulate(np.minimum(1.0, left_P * p_P[order]))
    return adjusted_P.tolist()


def _one_sided(effects_S: np.ndarray, bound: float, alternative: str) -> float:
    """p of `stats.ttest_1samp` of the paired differences; without any spread it is the comparison itself."""
    if len(effects_S) < 2:
        return float("nan")
    if np.ptp(effects_S) == 0:
        right = effects_S[0] > bound if alternative == "greater" else effects_S[0] < bound
        return 0.0 if right else 1.0
    return float(stats.ttest_1samp(effects_S, bound, alternative=alternative).pvalue)


_above, _below = partial(_one_sided, alternative="greater"), partial(_one_sided, alternative="less")
