# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `thompson`: Thompson sampling on Beta posteriors, after the worst perturbation."""

from collections.abc import Sequence

import numpy as np
from robomd_ros.diagnosis.batches import (
    Choice,
    make_generator,
    run_batches,
    SIZE,
    suspected,
    Tally,
)
from robomd_ros.diagnosis.environment import Search

JEFFREYS = 0.5  # the prior of a rate of which nothing is known: Beta(1/2, 1/2)
PSEUDO = 2.0  # rollouts that the suspicion is worth on top of it
SAMPLES = 1000  # of the posterior, to estimate how likely each perturbation is the worst


def search(search: Search) -> None:
    """
    Run the search.

    The probability of a perturbation's being chosen is that of its being the one that fails most
    (Thompson 1933, On the likelihood that one unknown probability exceeds another; Chapelle and
    Li 2011, An empirical evaluation of Thompson sampling). It is estimated by samples of the
    posterior, and what is chosen is drawn from these estimates, so that the probability in the
    ledger is exact. Before any rollout a perturbation is thought to fail by the logistic function
    of its standardized log deviation.
    """
    prior = prior_counts(suspected(search)[0])

    def choose(history: Sequence[Tally]) -> list[Choice]:
        counts = posterior(prior, history[-1])
        search.on_estimate(counts[0] / counts.sum(0))
        generator = make_generator(search, len(history) - 1)
        shares = worst_shares(counts, history[-1].usable, generator)
        chosen = generator.choice(len(shares), SIZE, p=shares)
        return [(int(place), float(shares[place])) for place in chosen]

    counts = posterior(prior, run_batches(search, 'thompson', choose)[-1])
    search.on_estimate(counts[0] / counts.sum(0))


def prior_counts(deviation: np.ndarray) -> np.ndarray:
    """Return the prior's (2, N) pseudo-counts of failures and of successes."""
    rate = 1 / (1 + np.exp(-deviation))
    return JEFFREYS + PSEUDO * np.array([rate, 1 - rate])


def posterior(prior: np.ndarray, tally: Tally) -> np.ndarray:
    """Return the (2, N) parameters of the Beta posteriors."""
    return prior + [tally.failures, tally.valid - tally.failures]


def worst_shares(counts: np.ndarray, usable: np.ndarray,
                 generator: np.random.Generator) -> np.ndarray:
    """
    Return how likely each perturbation is to fail most of all, (N,), sums to 1.

    counts: (2, N), parameters of the Beta posteriors. usable: (N,) bool; the others have 0.
    """
    rates = generator.beta(counts[0], counts[1], (SAMPLES, counts.shape[1]))
    worst = np.where(usable, rates, -1).argmax(1)
    return np.bincount(worst, minlength=counts.shape[1]) / SAMPLES
