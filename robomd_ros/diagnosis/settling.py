# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""When the ranking that was asked for is known, so that a diagnosis may end."""

from collections.abc import Sequence

import numpy as np
from robomd_ros.diagnosis.statistics import CONFIDENCE, confidence_sequence


def settled(rates: Sequence[tuple[int, int]], top: int, within: float) -> bool:
    """
    Return whether the top of the ranking is known.

    rates: (failures, n) of every perturbation. It is known if each of the top perturbations has
    been tried and fails at most within less often than any that is not among them, with 95%
    confidence in all of that together, however often one asks: the stopping rule of LUCB
    (Kalyanakrishnan et al. 2012, PAC subset selection in stochastic multi-armed bandits), on
    confidence sequences.
    """
    if top >= len(rates):
        return all(n for _, n in rates)
    each = 1 - (1 - CONFIDENCE) / len(rates)  # Bonferroni
    ends = np.array([confidence_sequence(failures, n, each) for failures, n in rates])
    order = np.argsort([-(failures + 1) / (n + 2) for failures, n in rates], kind='stable')
    if not all(rates[place][1] for place in order[:top]):
        return False
    return bool(ends[order[:top], 0].min() >= ends[order[top:], 1].max() - within)
