# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The counterfactual action deviation: what would the policy do here, were the scene changed."""

from collections.abc import Callable, Sequence
import math

import numpy as np
from robomd_ros.conditions import Condition, NOMINAL
from robomd_ros.policies.protocol import Policy
from robomd_ros.rollouts.ledger import PolicyUnusable
from robomd_ros.rollouts.protocol import Deviation, RolloutRequest, RunnerError
from robomd_ros.rollouts.rollout import (
    ask,
    InvalidRolloutError,
    reset_policy,
    RolloutCanceled,
    run_rollout,
    SOLVED_AT_RESET,
)
from robomd_ros.worlds.protocol import Observation, World

ROLLOUTS = 4  # nominal ones, of trials 0, 1, ...
EVERY = 3     # control steps from one of their states to the next
TRANSLATION = slice(3)  # of an action: where the hand is to go
GRIPPER = -1            # of an action: how far to close it


def measure_deviations(
    world: World,
    policy: Policy,
    conditions: Sequence[Condition],
    seed: int,
    on_progress: Callable[[int], None] = lambda done: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Deviation]:
    """
    Measure how far each condition moves the policy's actions, without a rollout under it.

    The policy is run in the nominal scene from the initial states of seed and trials 0, 1, ...
    Every third state of these rollouts is then put under each condition, and the policy is asked
    for its first action there, its memory reset and its random numbers begun anew. What it answers
    in the same state of the nominal scene, asked alike, is what that is compared with. No step of
    physics is taken under a condition.
    Both deviations are NaN under a condition if the policy raises there in any of the states, or
    answers anything but an action.
    on_progress: called with how many conditions are done. should_stop: asked at every control step
    and in every state; on True RolloutCanceled is raised.
    Raises PolicyUnusable if the policy does so in the nominal scene, RunnerError if there is no
    nominal rollout to take states from, and UserError if the world cannot be set to a condition.
    """
    states, rollouts = _nominal_states(world, policy, seed, should_stop)

    def answers(condition: Condition) -> np.ndarray:
        """Return what the policy does in each state under the condition, (states, action_size)."""
        return np.array([
            _first_action(world, policy, condition, state, number, should_stop)
            for number, state in enumerate(states)])

    try:
        nominal = answers(NOMINAL)
    except InvalidRolloutError as error:
        raise _unusable(str(error), should_stop) from None
    found = []
    for done, condition in enumerate(conditions, start=1):
        translation = gripper = math.nan
        try:
            apart = answers(condition) - nominal
        except InvalidRolloutError:
            _check_wanted(should_stop)
        else:
            translation = float(np.linalg.norm(apart[:, TRANSLATION], axis=1).mean())
            gripper = float(np.abs(apart[:, GRIPPER]).mean())
        found.append(Deviation(translation, gripper, len(states), rollouts))
        on_progress(done)
    return found


class _Recorder:
    """A policy that notes every third state it is asked in."""

    def __init__(self, world: World, policy: Policy) -> None:
        self.needs, self.digest = policy.needs, policy.digest
        self.states: list[np.ndarray] = []
        self._world, self._policy = world, policy
        self._step = 0

    def reset(self, instruction: str) -> None:
        self._policy.reset(instruction)
        self._step = 0

    def act(self, observation: Observation) -> np.ndarray:
        if self._step % EVERY == 0:
            self.states.append(self._world.state())
        self._step += 1
        return self._policy.act(observation)


def _nominal_states(
    world: World, policy: Policy, seed: int, should_stop: Callable[[], bool],
) -> tuple[list[np.ndarray], int]:
    """Return states of nominal rollouts, and how many rollouts they are of."""
    recorder = _Recorder(world, policy)
    rollouts = 0
    for trial in range(ROLLOUTS):
        request = RolloutRequest(f'deviation/{trial}', NOMINAL, seed, trial)
        outcome = run_rollout(world, recorder, request, on_step=lambda _: should_stop()).outcome
        if outcome.verdict == 'invalid' and outcome.reason != SOLVED_AT_RESET:
            raise _unusable(outcome.reason, should_stop)
        rollouts += outcome.verdict != 'invalid'
    if not recorder.states:
        raise RunnerError(f'The task is solved at reset in all of {ROLLOUTS} nominal rollouts, so '
                          'that there is nothing to ask the policy; give another seed.')
    return recorder.states, rollouts


def _first_action(world: World, policy: Policy, condition: Condition, state: np.ndarray,
                  number: int, should_stop: Callable[[], bool]) -> np.ndarray:
    from robomd_ros.policies.noise import begun_anew  # which brings torch

    _check_wanted(should_stop)
    observation = world.restore(condition, state)
    with begun_anew(number):
        reset_policy(policy, world.info.instruction)
        return ask(policy, observation)


def _unusable(reason: str, should_stop: Callable[[], bool]) -> PolicyUnusable:
    _check_wanted(should_stop)
    return PolicyUnusable(f"The policy's actions under {NOMINAL.label} cannot be measured "
                          f'({reason}); mend that and give the same command again.')


def _check_wanted(should_stop: Callable[[], bool]) -> None:
    """Stop if told to; what asks for the end, a Ctrl-C for one, may have broken the policy."""
    if should_stop():
        raise RolloutCanceled('Measuring the deviation of actions was canceled.')
