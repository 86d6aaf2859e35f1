# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""RolloutRunner: who runs rollouts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from robomd_ros.conditions import Condition
from robomd_ros.worlds.protocol import Outcome


@dataclass(frozen=True)
class RolloutRequest:
    """
    One rollout that is asked for.

    key: names the request within its run, e.g. 'control/3' or 'ppo/64'; the same key is never run
    twice.
    condition, seed, trial: the scene and the initial state.
    """

    key: str
    condition: Condition
    seed: int
    trial: int


@dataclass(frozen=True)
class RolloutResult:
    """
    One rollout that has ended.

    steps: control steps the policy took. duration: wall time, s.
    first_frame, last_frame: (84, 84, 3) uint8 RGB.
    executor: who ran it.
    """

    request: RolloutRequest
    outcome: Outcome
    steps: int
    duration: float
    first_frame: np.ndarray
    last_frame: np.ndarray
    executor: str


class RolloutRunner(Protocol):
    """
    Who runs rollouts: in this process, or through the ROS graph.

    Safe to call from several threads.
    """

    parallel: int  # how many rollouts it can run at a time
    horizon: int   # control steps a rollout gets

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """
        Run the requests and yield the results as they finish, in any order.

        Raises RunnerError when no rollout can be run any more.
        """
        ...


class RunnerError(RuntimeError):
    """No rollout can be run any more; the message is one sentence for a person."""
