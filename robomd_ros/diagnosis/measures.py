# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The formulas of the paper's measures (Sec. IV); docs/measures.md says how each is to be read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from robomd_ros.diagnosis.statistics import CONFIDENCE

RESAMPLES = 2000  # of the bootstrap
DRAWS = 400       # of true rates; the ceiling's error by that is 0.001 or so
LEAST = 8         # perturbations that a bootstrap over them takes, for its intervals to cover


@dataclass(frozen=True)
class Accuracy:
    """
    How often of a failed and a successful rollout the failed one has the higher score.

    value: the share of pairs, those of equal scores counting half; None without a pair.
    interval: 95%, by bootstrap over perturbations; None of fewer than eight of them.
    pairs: that could be judged. abstained: that could not, for want of a score.
    """

    value: float | None
    interval: tuple[float, float] | None
    pairs: int
    abstained: int


@dataclass(frozen=True)
class Pairs:
    """
    Pairs of a failed and a successful rollout of different perturbations, and their judgement.

    Each array is (N, N) over perturbations, [i, j] of pairs in which i failed and j did not.
    right: that are judged rightly, half of those with equal scores. judged, abstained: that have
    two scores, and that have not.
    """

    right: np.ndarray
    judged: np.ndarray
    abstained: np.ndarray

    def __add__(self, other: 'Pairs') -> 'Pairs':
        """Return the pairs of both together."""
        return Pairs(self.right + other.right, self.judged + other.judged,
                     self.abstained + other.abstained)

    @property
    def accuracy(self) -> Accuracy:
        """Return how well they are judged."""
        value = float(self.right.sum() / self.judged.sum()) if self.judged.any() else None
        return Accuracy(value, bootstrap(self.right, self.judged), round(self.judged.sum()),
                        round(self.abstained.sum()))


def judge(scores: Sequence[float | None], failures: Sequence[float] | np.ndarray,
          successes: Sequence[float] | np.ndarray) -> Pairs:
    """
    Return the pairs and how the scores judge them (the paper's Tables I, III and IV).

    scores: of each perturbation, higher where failures are thought likelier, None for an
    abstention. failures, successes: how many rollouts of each have failed, and have not.
    Over all pairs, those within a perturbation too, the accuracy would be the area under the ROC
    curve.
    """
    score = np.array([np.nan if each is None else each for each in scores], float)
    known = ~np.isnan(score)
    pairs = np.outer(failures, successes).astype(float)
    np.fill_diagonal(pairs, 0)
    judged = pairs * np.outer(known, known)
    higher = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    return Pairs(judged * higher, judged, pairs - judged)


def bootstrap(right: np.ndarray, judged: np.ndarray) -> tuple[float, float] | None:
    """
    Return the 95% interval of right.sum() / judged.sum(), perturbations being drawn anew.

    right, judged: (N, N), 0 on the diagonal: a perturbation that is drawn twice makes no pair with
    itself. None if fewer than eight perturbations have a pair.
    """
    there = judged.any(axis=0) | judged.any(axis=1)
    if there.sum() < LEAST:
        return None
    right, judged = right[there][:, there], judged[there][:, there]
    drawn = np.random.default_rng(0).multinomial(
        len(judged), np.full(len(judged), 1 / len(judged)), RESAMPLES)
    pairs = ((drawn @ judged) * drawn).sum(axis=1)
    shares = ((drawn @ right) * drawn).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def ceiling(failures: Sequence[int], n: Sequence[int]) -> Accuracy:
    """
    Return the pair accuracy to be expected of the true failure rates themselves.

    failures, n: of each perturbation. The sum of p_i (1 - p_j) [p_i > p_j, half if equal] over
    that of p_i (1 - p_j), as outcomes are random. Observed rates in place of p would call luck
    skill and make it too high. So p is drawn 400 times from what the outcomes leave possible: the
    posterior under the Beta distribution of rates that fits this catalogue best (empirical Bayes,
    e.g. Efron 2010, Large-Scale Inference, Ch. 1). pairs: as many as were observed.
    """
    f, number = np.array(failures), np.array(n)
    observed = judge([0.0] * len(f), f, number - f).accuracy.pairs
    if not observed:
        return Accuracy(None, None, 0, 0)
    a, b = _fit_beta(f, number)
    drawn = np.random.default_rng(0).beta(f + a, number - f + b, (DRAWS, len(f)))
    every = [judge(list(p), p * number, (1 - p) * number) for p in drawn]
    found = sum(every[1:], start=every[0]).accuracy
    return replace(found, pairs=observed)


def _fit_beta(failures: np.ndarray, n: np.ndarray) -> tuple[float, float]:
    """Return the Beta distribution of rates under which the failures are most likely."""
    from scipy.optimize import minimize
    from scipy.stats import betabinom

    def surprise(logs: np.ndarray) -> float:
        return -float(betabinom.logpmf(failures, n, *np.exp(logs)).sum())

    fitted = minimize(surprise, [0.0, 0.0], method='L-BFGS-B', bounds=[(-5, 6)] * 2)
    a, b = np.exp(fitted.x)
    return float(a), float(b)


def entropy(weights: Sequence[float], base: float | None = None) -> float:
    """
    Return the entropy of the weights, made to sum to 1 (the paper's Table II and Sec. IV-A).

    base: 2 for bits, None for nats.
    """
    from scipy.stats import entropy

    return float(entropy(np.array(weights, float), base=base))


def modes_by_mass(mass: Sequence[float]) -> int:
    """Return how many have half of a uniform share or more, 1 / (2 N) (the paper's Table II)."""
    return int(sum(each >= 1 / (2 * len(mass)) for each in mass))


def failure_severity(probabilities: Sequence[float]) -> float:
    """
    Return the paper's Failure Severity Index: sum of P_i W_i, W_i = P_i / max P (Sec. IV-B).

    0 if all are 0. Of numbers that sum to 1 it is at most 1.
    """
    p = np.array(probabilities, float)
    return float((p ** 2).sum() / p.max()) if p.any() else 0.0


def wasserstein_uniform(weights: Sequence[float]) -> float | None:
    """
    Return the Wasserstein distance of the weights' values to 1 / N (the paper's Fig. 7).

    weights: N, made to sum to 1. It is the mean of |P_i - 1 / N|: how uneven they are, and not how
    large. None if all are 0.
    """
    from scipy.stats import wasserstein_distance

    total = sum(weights)
    if not total:
        return None
    return float(wasserstein_distance([each / total for each in weights], [1 / len(weights)]))
