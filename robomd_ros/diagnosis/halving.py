# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `successive_halving`: all equally often, then the worse half of them, and so on."""

from collections.abc import Iterator, Sequence
from itertools import repeat

import numpy as np
from robomd_ros.diagnosis.batches import Choice, run_batches, Tally
from robomd_ros.diagnosis.environment import Search


def search(search: Search) -> None:
    """
    Run the search.

    It is sequential halving (Karnin, Koren and Somekh 2013, Almost optimal exploration in
    multi-armed bandits, algorithm 1): of N perturbations, ceil(log2 N) rounds with equal shares of
    the budget, each spent evenly on those still in; after it the half of them that fails more
    stays in. All rollouts so far count, not the round's alone, and what rounding leaves of the
    budget goes to the last round. A batch is one rollout of each that is still in.
    """
    rounds = plan(len(search.catalogue), search.rollouts - search.control)

    def choose(history: Sequence[Tally]) -> list[Choice]:
        left = list(range(len(search.catalogue)))
        begin = 0
        for size, batches in rounds:
            left = worst(left, history[begin], size)
            begin += batches
            if len(history) <= begin:
                break
        return [(place, 1.0) for place in left]

    run_batches(search, 'successive_halving', choose, sizes(rounds))


def plan(perturbations: int, budget: int) -> list[tuple[int, int]]:
    """Return of each round how many perturbations are in it, and its batches, at least one."""
    rounds = max(1, int(np.ceil(np.log2(perturbations))))
    planned = []
    for _ in range(rounds):
        planned.append((perturbations, max(1, budget // (perturbations * rounds))))
        perturbations = (perturbations + 1) // 2
    return planned


def sizes(rounds: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the sizes of the batches; the last round goes on for ever."""
    for size, batches in rounds:
        yield from repeat(size, batches)
    yield from repeat(rounds[-1][0])


def worst(places: Sequence[int], tally: Tally, number: int) -> list[int]:
    """Return so many of the places, in their order: those that fail most; then the earlier one."""
    rates = np.where(tally.valid > 0, tally.failures / np.maximum(tally.valid, 1), -1.0)
    ordered = sorted(places, key=lambda place: -rates[place])
    return sorted(ordered[:number])
