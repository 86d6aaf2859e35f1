# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Policies that misbehave, for the tests: python:test/cli_policies.py:FACTORY."""

import numpy as np
from robomd_ros.policies import PolicyNeeds


class _Policy:
    """Stands still until its answer is due, counted from reset in control steps."""

    def __init__(self, answer, every=1):
        self.needs = PolicyNeeds()
        self._answer, self._every = answer, every
        self._resets = self._steps = 0

    def reset(self, instruction):
        self._resets += 1
        self._steps = 0

    def act(self, observation):
        self._steps += 1
        if self._steps < 3 or self._resets % self._every:
            return np.zeros(7)
        return self._answer()


def _raise():
    raise ValueError('no idea')


def nan_now_and_then(task):
    return _Policy(lambda: np.full(7, np.nan), every=2)


def nan_from_the_third_step(task):
    return _Policy(lambda: np.full(7, np.nan))


def wrong_shape_from_the_third_step(task):
    return _Policy(lambda: np.zeros(6))


def raises_from_the_third_step(task):
    return _Policy(_raise)
