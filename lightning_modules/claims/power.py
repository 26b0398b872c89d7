"""How many seeds a verdict would take, by the spread of those that there are; and whether another margin would change it."""

import bisect
import math
from collections.abc import Sequence

import numpy as np
from scipy import integrate, stats

from lightning_modules.claims import statistics as st

WANTED = 0.8
FACTORS = (0.5, 2.0)
FEWEST, MOST = 5, 100_000
# Noncentrality beyond which a t test always rejects; the noncentral t itself has no value from about 1e9 on.
SEEN = 1e8


def level(family: int) -> float:
    """The level that is left to one test among `family` at Holm's strictest step, which is enough whatever the others do."""
    return st.ALPHA / family


def power(spread: float, n: int, *, rule: st.Rule, margin: float, alpha: float) -> float:
    """Probability that the claim's t test on `n` paired effects rejects at `alpha` (one-sided), were the claim just true.

    Just true: an effect of the margin for a superiority, of 0 for the other two rules. spread: standard deviation of the
    effects, taken as known; from five seeds it is itself known only to within a factor of about 0.6 to 2.9 (95%).

    The rule asks more than this test, so the chance of *reproduced* is lower: the mean of a superiority has to reach its
    margin, which half of all series do where the margin is the truth. Read it as: could this series have seen an effect
    of that size at all?

    Sources: noncentral t (Cohen, Statistical Power Analysis, 1988, chapter 2); two one-sided tests: Phillips,
    J. Pharmacokinet. Biopharm. 18 (1990) 137, integrated over the chi distribution of the sample's deviation.
    """
    if n < 2:
        return math.nan
    if spread * SEEN <= margin * math.sqrt(n):
        return 1.0
    df = n - 1
    distance = margin / spread * math.sqrt(n)
    critical = float(stats.t.isf(alpha, df))
    if rule != "equivalence":
        return float(stats.nct.sf(critical, df, distance))

    def both(chi: float) -> float:
        return float(stats.chi.pdf(chi, df) * (2 * stats.norm.cdf(distance - critical * chi / math.sqrt(df)) - 1))

    # Beyond this sample deviation no mean is inside both bounds; and where spread is small next to none is as large.
    end = min(distance * math.sqrt(df) / critical, float(stats.chi.isf(1e-12, df)))
    middle = math.sqrt(df)
    return float(integrate.quad(both, 0, end, points=[middle] if middle < end else None, limit=200)[0])


def seeds_for(spread: float, *, rule: st.Rule, margin: float, alpha: float, wanted: float = WANTED) -> int | None:
    """The fewest seeds, five or more as a claim must have, with `power` of at least `wanted`; None above `MOST`."""
    if not math.isfinite(spread):
        return None

    def enough(n: int) -> bool:
        return power(spread, n, rule=rule, margin=margin, alpha=alpha) >= wanted

    # What is enough stays enough with more. Doubled first, as a power takes the longer the more seeds there are.
    most = FEWEST
    while most < MOST and not enough(most):
        most *= 2
    found = bisect.bisect_left(range(min(most, MOST) + 1), True, lo=FEWEST, key=enough)
    return found if found <= MOST else None


def spread(effects: Sequence[float]) -> float:
    """Standard deviation of a sample; nan of fewer than two."""
    return float(np.std(effects, ddof=1)) if len(effects) > 1 else math.nan


def sensitivity(
    effects: Sequence[float], *, rule: st.Rule, margin: float, needed: int, others: Sequence[float]
) -> dict[str, str]:
    """The verdict by the same effects were the margin half or twice as large; keys `0.5` and `2`.

    others: p_for of the other rows of Holm's family, which keep their own margins.
    """
    said = {}
    for factor in FACTORS:
        found = st.find(effects, rule=rule, margin=factor * margin)
        p_holm = st.holm([found.p_for, *others])[0]
        said[f"{factor:g}"] = st.verdict(found, p_holm=p_holm, rule=rule, margin=factor * margin, needed=needed)
    return said
