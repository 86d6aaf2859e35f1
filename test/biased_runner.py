# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A runner whose rollouts fail as often as it is told, and tallies of rollouts."""

from coin_runner import CoinRunner
import numpy as np
from robomd_ros.diagnosis.batches import Tally
from robomd_ros.worlds.protocol import Outcome


def tally(asked, failures=None, valid=None):
    """Return a tally; all valid and no failure if not given."""
    asked = np.array(asked)
    return Tally(asked, asked if valid is None else np.array(valid),
                 np.zeros_like(asked) if failures is None else np.array(failures))


class Biased(CoinRunner):
    """Tosses coins that fail as often as told, by the condition's name; nominal never."""

    def __init__(self, rates):
        super().__init__()
        self.rates = rates
        self.tried = []

    def run(self, requests):
        """Yield the results in order."""
        for request in requests:
            yield self._toss(request)

    def outcome(self, request, failed):
        """Return a verdict that is a function of the seed, the trial and the condition."""
        name = request.condition.label
        self.tried.append(name)
        place = [*self.rates, 'nominal'].index(name)
        toss = np.random.default_rng([request.seed, request.trial, place, 9]).random()
        return Outcome('failure' if toss < self.rates.get(name, 0) else 'success')
