# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""RolloutRunner: who runs rollouts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    purpose: 'control', a nominal rollout to compare with; 'discovery', chosen in the light of what
    had been found; 'confirmation', planned without it.
    probability: with which the searcher chose the perturbation that it added, None if unknown.
    """

    key: str
    condition: Condition
    seed: int
    trial: int
    purpose: str = 'control'
    probability: float | None = None


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


@dataclass(frozen=True)
class Deviation:
    """
    How far a condition moves the policy's actions from those in the nominal scene; no rate.

    Both are means over the same states, in action units, each of whose components is in [-1, 1].
    translation: the L2 distance between the translations. gripper: the distance between what the
    gripper is told. Both are NaN if the policy gives no action under the condition.
    states: how many; rollouts: nominal ones that they are of.
    """

    translation: float
    gripper: float
    states: int
    rollouts: int


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


class PolicyRunner(RolloutRunner, Protocol):
    """A runner that can also ask the policy what it would do."""

    def deviations(self, conditions: Sequence[Condition], seed: int,
                   on_progress: Callable[[int], None]) -> list[Deviation]:
        """
        Measure how far each condition moves the policy's actions, without a rollout under it.

        seed: of the nominal rollouts whose states the policy is asked in. on_progress: called with
        how many conditions are done.
        Raises RunnerError when that cannot be done, e.g. since the policy gives no actions.
        """
        ...


class RunnerError(RuntimeError):
    """No rollout can be run any more; the message is one sentence for a person."""
