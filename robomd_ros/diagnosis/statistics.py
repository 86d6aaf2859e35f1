# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How sure a rate is."""

from functools import cache


@cache
def wilson(failures: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
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
