# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The mean of several failure rates, and of their changes, with 95% intervals.

Rollouts of several perturbations on one trial start from one initial state, so they are no
independent ones. Their worth is that of an effective number of independent rollouts, which has
the variance that is found between trials, and is at most their own number; a factor allows for
few trials (Korn and Graubard 1998, Confidence intervals for proportions with small expected
number of positive counts estimated from survey data, Survey Methodology 24). With this number go
the intervals of Wilson for a rate and of Newcombe for a paired difference. Unlike a bootstrap over
trials they are no point where nothing failed or nothing changed, and hold with a dozen trials.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from robomd_ros.diagnosis.statistics import CONFIDENCE, Failures, newcombe

Interval = tuple[float, float]


def mean_rate(rates: Sequence[Failures]) -> tuple[float, Interval]:
    """
    Return the mean failure rate, each perturbation counting the same, and its interval.

    rates: of each perturbation, trial -> whether it failed, at least one.
    """
    from statsmodels.stats.proportion import proportion_confint

    mean = float(np.mean([np.mean(list(failed.values())) for failed in rates]))
    n = effective_number(rates)
    low, high = proportion_confint(mean * n, n, alpha=1 - CONFIDENCE, method='wilson')
    return mean, (0.0 if mean == 0 else float(low), 1.0 if mean == 1 else float(high))


def mean_change(pairs: Sequence[tuple[Failures, Failures]]) -> tuple[float, Interval]:
    """
    Return the mean difference of failure rates, first less second, and its interval.

    pairs: of each perturbation, two conditions or policies; they share a trial at least, and only
    what they share counts. Each perturbation counts the same.
    """
    table = np.zeros((2, 2))
    differences = []
    for first, second in pairs:
        trials = first.keys() & second.keys()
        for trial in trials:
            table[int(first[trial]), int(second[trial])] += 1 / len(trials) / len(pairs)
        differences.append({trial: int(first[trial]) - int(second[trial]) for trial in trials})
    mean = float(np.mean([np.mean(list(each.values())) for each in differences]))
    return mean, newcombe(table * effective_number(differences))


def effective_number(values: Sequence[Mapping[int, float]]) -> float:
    """
    Return how many independent values say as much of the mean of the perturbations' means.

    values: of each perturbation, trial -> value.
    """
    from scipy.stats import norm, t

    column = {trial: place for place, trial in enumerate(sorted(set().union(*values)))}
    known = np.full((len(values), len(column)), np.nan)
    for row, each in enumerate(values):
        known[row, [column[trial] for trial in each]] = list(each.values())
    n = (~np.isnan(known)).sum(axis=1)
    most = len(values) ** 2 / (1 / n).sum()
    trials = len(column)
    if trials == 1:
        return float(most)
    means = np.nanmean(known, axis=1)
    share = np.nansum((known - means[:, None]) / (n * len(values))[:, None], axis=0)
    few = t.ppf((1 + CONFIDENCE) / 2, trials - 1) / norm.ppf((1 + CONFIDENCE) / 2)
    between = trials / (trials - 1) * (share ** 2).sum() * few ** 2
    apart = np.nanmean(known ** 2, axis=1).mean() - means.mean() ** 2
    return float(min(most, apart / between)) if between > 0 else float(most)
