# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How sure a rate is, and how sure a difference of rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
import math

import numpy as np

CONFIDENCE = 0.95
MARGIN = 0.10  # by which a failure mode fails more often than nominal, at least


@cache
def wilson(failures: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """
    Return the ends of the Wilson interval of the rate failures / n, from 0 to 1.

    failures: from 0 to n. confidence: 0 to 1, exclusive. Of n = 0 it is (0, 1).
    """
    from statsmodels.stats.proportion import proportion_confint

    if n == 0:
        return 0.0, 1.0
    low, high = proportion_confint(failures, n, alpha=1 - confidence, method='wilson')
    # Of no failure and of nothing else the ends are exactly 0 and 1, but for rounding.
    return (0.0 if failures == 0 else float(low)), (1.0 if failures == n else float(high))


@cache
def confidence_sequence(
    failures: int, n: int, confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """
    Return an interval of the rate that may be looked at after every rollout.

    Over all n together, the probability that it ever misses the rate is at most 1 - confidence,
    whoever chose when to look, to stop, or what to try next, as long as the rollouts of one
    condition are independent of each other. It is the set of rates whose density under the
    posterior Beta(failures + 1, n - failures + 1) is above 1 - confidence: the prior-posterior
    ratio of a uniform prior is a martingale (Waudby-Smith and Ramdas 2020, Confidence sequences
    for sampling without replacement, Prop. 2.1; for the binomial already Robbins 1970), to which
    Ville's inequality applies.
    """
    from scipy.optimize import brentq
    from scipy.special import betaln, xlog1py, xlogy

    successes = n - failures
    scale = betaln(failures + 1, successes + 1)

    def above(rate: float) -> float:  # scipy.stats.beta.pdf takes 30 times as long
        density = np.exp(xlogy(failures, rate) + xlog1py(successes, -rate) - scale)
        return float(density) - (1 - confidence)

    low = brentq(above, 0.0, failures / n) if failures else 0.0
    high = brentq(above, failures / n, 1.0) if successes else 1.0
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """
    How two conditions compare on the same trials.

    pairs: trials on which both had a valid rollout. more, less: of those, on which only the first
    failed, and only the second. difference: of the failure rates, first less second, over the
    pairs; None without any. interval: its 95% interval. p: of the exact McNemar test, two-sided.
    p_holm: that adjusted by Holm for all comparisons made together.
    """

    pairs: int
    more: int
    less: int
    difference: float | None
    interval: tuple[float, float]
    p: float
    p_holm: float

    @property
    def verdict(self) -> str:
        """Return 'failure mode', 'better than nominal' or 'not shown'; the second is nominal."""
        if self.difference is None or self.p_holm >= 1 - CONFIDENCE:
            return 'not shown'
        if self.difference >= MARGIN:
            return 'failure mode'
        return 'better than nominal' if self.difference < 0 else 'not shown'


Failures = Mapping[int, bool]  # trial -> whether the rollout failed; valid rollouts only


def compare(first: Failures, second: Failures) -> Paired:
    """Return how the first compares with the second; p_holm is p."""
    from statsmodels.stats.contingency_tables import mcnemar

    trials = first.keys() & second.keys()
    table = np.zeros((2, 2), int)
    for trial in trials:
        table[int(first[trial]), int(second[trial])] += 1
    more, less, pairs = int(table[1, 0]), int(table[0, 1]), len(trials)
    p = float(mcnemar(table, exact=True).pvalue) if more + less else 1.0
    difference = (more - less) / pairs if pairs else None
    return Paired(pairs, more, less, difference, newcombe(table), p, p)


def newcombe(table: np.ndarray) -> tuple[float, float]:
    """
    Return the 95% interval of the difference of two paired rates.

    table: (2, 2) counts, [i, j] of pairs in which the first failed (i = 1) or not and the second
    (j = 1) or not. Newcombe's method 10 (Statistics in Medicine 17, 1998, 2635-2650): the Wilson
    intervals of both rates, put together with their correlation. (-1, 1) without pairs.
    """
    (neither, only_second), (only_first, both) = table.tolist()
    n = neither + only_second + only_first + both
    if n == 0:
        return -1.0, 1.0
    first, second = (both + only_first), (both + only_second)
    (low1, high1), (low2, high2) = wilson(first, n), wilson(second, n)
    p1, p2 = first / n, second / n
    margins = first * (n - first) * second * (n - second)
    product = both * neither - only_first * only_second
    if product > 0:  # continuity correction, where there is room for it
        product = max(product - n / 2, 0)
    phi = product / np.sqrt(margins) if margins else 0.0

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))

    difference = p1 - p2
    return (max(-1.0, difference - reach(p1 - low1, high2 - p2)),
            min(1.0, difference + reach(high1 - p1, p2 - low2)))


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """
    Return the p values adjusted by Holm.

    family: how many hypotheses there are, if those left out count as well, with p = 1.
    """
    # statsmodels' multipletests collects garbage whenever it is called: 0.1 s for every map.
    order = np.argsort(p)
    left = (family or len(p)) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(left * np.take(p, order)), 1)
    return adjusted.tolist()


def hundredths(interval: tuple[float, float]) -> tuple[int, int]:
    """Return an interval of shares in whole per cent; outwards, so as to promise no more."""
    low, high = interval
    return math.floor(100 * low + 1e-9), math.ceil(100 * high - 1e-9)
