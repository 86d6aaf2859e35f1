# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One rollout: the policy acts in the world until the world says it is over."""

from collections.abc import Callable
import time

import numpy as np
from robomd_ros.policies.protocol import Policy
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult, RunnerError
from robomd_ros.worlds.protocol import Observation, Outcome, World

SOLVED_AT_RESET = 'solved_at_reset'


class RolloutCanceled(RunnerError):  # noqa: N818, what happened is no error
    """The rollout was canceled before it was over."""


class InvalidRolloutError(Exception):
    """The rollout says nothing about the policy's skill; the message is the outcome's reason."""


def run_rollout(
    world: World,
    policy: Policy,
    request: RolloutRequest,
    executor: str = 'here',
    on_step: Callable[[int], bool | None] | None = None,
) -> RolloutResult:
    """
    Run the policy once, from a fresh initial state and with its own memory reset.

    executor: who runs it, for the result. on_step: called after every control step with how many
    there have been; returns True to cancel the rollout.
    The outcome is invalid, with the reason, if the task is solved at reset already, if the policy
    raises or answers anything but finite numbers of the right shape, and if the world raises while
    it carries out a step.
    Raises RolloutCanceled, and whatever the world raises at reset, e.g. UserError for a condition
    it cannot be set to.
    """
    started = time.monotonic()
    steps = 0
    observation = world.reset(request.condition, request.seed, request.trial)
    first_frame = world.picture()
    outcome = world.outcome()
    try:
        if outcome is not None and outcome.verdict == 'success':
            raise InvalidRolloutError(SOLVED_AT_RESET)
        reset_policy(policy, world.info.instruction)
        while outcome is None:
            observation = _step(world, ask(policy, observation))
            steps += 1
            if on_step is not None and on_step(steps):
                raise RolloutCanceled(f'The rollout {request.key} was canceled.')
            outcome = world.outcome()
    except InvalidRolloutError as error:
        outcome = Outcome('invalid', str(error), source='rollout')
    return RolloutResult(request, outcome, steps, time.monotonic() - started, first_frame,
                         world.picture(), executor)


def reset_policy(policy: Policy, instruction: str) -> None:
    """Reset the policy's memory; raise InvalidRolloutError if it raises anything."""
    try:
        policy.reset(instruction)
    except Exception as error:
        raise _raised('policy', error) from error


def ask(policy: Policy, observation: Observation) -> np.ndarray:
    """Return the policy's action, (action_size,) finite floats, or raise InvalidRolloutError."""
    try:
        answer = policy.act(observation)
    except Exception as error:
        raise _raised('policy', error) from error
    try:
        action = np.asarray(answer, float)
    except (TypeError, ValueError, RuntimeError):  # the last is what torch raises
        kind = type(answer).__name__
        raise InvalidRolloutError(f'policy_returned_type {kind}, expected numbers') from None
    expected = (policy.needs.action_size,)
    if action.shape != expected:
        raise InvalidRolloutError(f'policy_returned_shape {action.shape}, expected {expected}')
    if np.isnan(action).any():
        raise InvalidRolloutError('policy_returned_nan')
    if np.isinf(action).any():
        raise InvalidRolloutError('policy_returned_inf')
    return action


def _step(world: World, action: np.ndarray) -> Observation:
    try:
        return world.step(action)
    except Exception as error:
        raise _raised('world', error) from error


def _raised(who: str, error: Exception) -> InvalidRolloutError:
    what = ' '.join(str(error).split())
    return InvalidRolloutError(f'{who}_raised {type(error).__name__}: {what}'[:200])
