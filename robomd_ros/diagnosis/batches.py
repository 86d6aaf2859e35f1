# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the searchers share that choose a few rollouts at a time, in the light of those before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from robomd_ros.conditions import Condition
from robomd_ros.diagnosis.environment import Search
from robomd_ros.diagnosis.sweep import with_control
from robomd_ros.rollouts.deviation import ROLLOUTS
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult

SIZE = 4  # rollouts a batch: as many as can run side by side without knowing of each other
_SIZES = repeat(SIZE)
_STREAM = 0x5EA2C4  # apart from those of the initial states, which are of [seed, trial]
_FLOOR = 0.01  # action units: deviations below are the noise of arithmetic and of drawing
_LEAST_SPREAD = 0.5  # of log deviations: if all are nearly the same, that says little

Choice = tuple[int, float]  # place in the catalogue, and the probability it was chosen with


@dataclass(frozen=True)
class Tally:
    """
    What had ended before a batch.

    asked, valid, failures: (N,) rollouts of each perturbation, in the catalogue's order; valid
    are those that were not invalid, and failures those of them that failed.
    """

    asked: np.ndarray
    valid: np.ndarray
    failures: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """
        Say of each perturbation, (N,) bool, whether it is worth another rollout.

        It is not if three rollouts were invalid, and three more for each valid one; the budget
        would go where nothing is learned. If that is so of all, all are.
        """
        usable = self.asked - self.valid < 3 * (self.valid + 1)
        return usable if usable.any() else ~usable

    def after(self, results: Iterable[RolloutResult], names: Sequence[str]) -> 'Tally':
        """Return the tally with the results in it; those of nominal do not count."""
        asked, valid, failures = self.asked.copy(), self.valid.copy(), self.failures.copy()
        for result in results:
            for name in result.request.condition.names:
                place = names.index(name)
                asked[place] += 1
                valid[place] += result.outcome.verdict != 'invalid'
                failures[place] += result.outcome.verdict == 'failure'
        return Tally(asked, valid, failures)


def run_batches(
    search: Search,
    searcher: str,
    choose: Callable[[Sequence[Tally]], Sequence[Choice]],
    sizes: Iterable[int] = _SIZES,
) -> Sequence[Tally]:
    """
    Spend the budget batch by batch, control rollouts in between; return the tallies.

    searcher: its name, which the keys begin with. sizes: of the batches. choose: returns as many
    choices as the batch has rollouts, given the tallies before each batch up to this one. It must
    be a function of these, so that the same is chosen however many rollouts run at a time, in
    whichever order they end, and after a restart. It is not called for a batch that has ended in
    an earlier session, and what has ended stays chosen.
    The search ends before its budget if search.settled() says so between two batches.
    """
    names = search.catalogue.names
    nothing = np.zeros(len(names), int)
    history = [Tally(nothing, nothing, nothing)]
    left = 0  # rollouts of the batch that have not been handed out

    def requests() -> Iterator[RolloutRequest]:
        nonlocal left
        number = 0
        for size in sizes:
            recorded = [search.recorded(f'{searcher}/{number + k}') for k in range(size)]
            if not any(recorded) and search.settled():
                return
            chosen = () if all(recorded) else choose(history)
            choices: list[tuple[int, float | None]] = [
                (names.index(of[0]), None) if of else chosen[k]  # the ledger has the probability
                for k, of in enumerate(recorded)]
            asked = history[-1].asked.copy()
            left = size
            for place, probability in choices:
                left -= 1
                yield make_request(
                    search, searcher, number, place, int(asked[place]), probability)
                asked[place] += 1
                number += 1

    stream = with_control(search, requests())

    def batch() -> Iterator[RolloutRequest]:
        for request in stream:
            yield request
            if request.condition.names and not left:
                return

    while asked := list(batch()):
        history.append(history[-1].after(search.runner.run(asked), names))
    return history


def make_request(search: Search, searcher: str, number: int, place: int, earlier: int,
                 probability: float | None) -> RolloutRequest:
    """
    Return the request for the searcher's rollout of that number, from 0.

    place: of the perturbation in the catalogue. earlier: how many rollouts of it were asked for.
    What is chosen in the light of what was found gets an initial state of its own: from how one
    perturbation ended on it one could tell how another will, and its rate's anytime-valid interval
    would be wrong. Those that the suspicion is of are left out for the same reason. What is
    planned gets the one that control rollouts can be compared on.
    """
    condition = Condition((search.catalogue.perturbations[place],))
    trial = ROLLOUTS + number if search.purpose == 'discovery' else earlier
    return RolloutRequest(f'{searcher}/{number}', condition, search.seed, trial, search.purpose,
                          probability)


def make_generator(search: Search, batch: int) -> np.random.Generator:
    """Return the random numbers of the batch, a function of the seed and of its number."""
    return np.random.default_rng([search.seed, batch, _STREAM])


def standardize(deviations: Iterable[float]) -> np.ndarray:
    """
    Return the logarithms of the deviations less their mean, in units of their spread.

    So the numbers mean the same for a policy that moves fast and for one that moves slowly.
    NaN, of which nothing is known, counts as the mean: 0.
    """
    logs = np.log(np.fromiter(deviations, float) + _FLOOR)
    known = logs[~np.isnan(logs)]
    if not known.size:
        return np.zeros_like(logs)
    scaled = (logs - known.mean()) / max(float(known.std()), _LEAST_SPREAD)
    return np.where(np.isnan(logs), 0.0, scaled)


def suspected(search: Search) -> tuple[np.ndarray, np.ndarray]:
    """Return the standardized deviations, (N,), of the translation and of the gripper."""
    suspicion = search.suspicion()
    names = search.catalogue.names
    return (standardize(suspicion.deviation[name] for name in names),
            standardize(suspicion.gripper[name] for name in names))
