# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One rollout, and the runner that runs them here."""

import dataclasses

from coin_runner import CATALOGUE, INFO
import numpy as np
import pytest
from robomd_ros.conditions import Condition, NOMINAL
from robomd_ros.errors import UserError
from robomd_ros.policies.protocol import PolicyNeeds
from robomd_ros.rollouts import (
    LocalRunner,
    RolloutCanceled,
    RolloutRequest,
    RolloutResult,
    run_rollout,
    versions,
)
from robomd_ros.worlds.protocol import Outcome

REQUEST = RolloutRequest('control/0', NOMINAL, 0, 0)


class CounterWorld:
    """Succeeds once the actions have added up to 3, fails after 5 steps; its picture tells."""

    info = dataclasses.replace(INFO, horizon=5)

    def __init__(self, start: float = 0.0) -> None:
        self._start = start

    def reset(self, condition, seed, trial):
        """Begin to count."""
        if 'blue_cube' in condition.names:
            raise UserError('There is no blue cube.')
        self._sum, self._steps = self._start, 0
        return {'sum': np.array([self._sum])}

    def step(self, action):
        """Add the action up."""
        if self._steps == 1 and action[0] == 0.5:
            raise ArithmeticError('the arm\nhas come off')
        self._sum += action[0]
        self._steps += 1
        return {'sum': np.array([self._sum])}

    def outcome(self):
        """Return whether it is over."""
        if self._sum >= 3:
            return Outcome('success', source='simulator')
        return Outcome('failure', source='simulator') if self._steps == 5 else None

    def picture(self):
        """Return one shade for each sum."""
        return np.full((84, 84, 3), int(20 * self._sum), np.uint8)

    def close(self):
        """Free nothing."""


class ScriptedPolicy:
    """Answers the same every time, or raises it."""

    needs = PolicyNeeds(action_size=2)
    digest = 'b' * 64

    def __init__(self, answer) -> None:
        self.answer = answer
        self.instructions: list[str] = []

    def reset(self, instruction):
        """Note the instruction."""
        self.instructions.append(instruction)

    def act(self, observation):
        """Return the answer."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def one(answer, start: float = 0.0, **others) -> RolloutResult:
    """Run one rollout of a policy that answers that."""
    return run_rollout(CounterWorld(start), ScriptedPolicy(answer), REQUEST, **others)


# One rollout.

def test_success_ends_the_rollout():
    result = one([1.0, 0.0], executor='left')
    assert (result.outcome.verdict, result.steps, result.executor) == ('success', 3, 'left')
    assert result.first_frame.max() == 0 and result.last_frame.min() == 60
    assert result.request is REQUEST and 0 < result.duration < 1


def test_failure_comes_at_the_horizon():
    result = one(np.zeros(2, np.float32))
    assert (result.outcome, result.steps) == (Outcome('failure', source='simulator'), 5)


def test_solved_at_reset_is_invalid_and_the_policy_is_not_asked():
    result = one(AssertionError('asked'), start=3.0)
    assert (result.outcome.verdict, result.outcome.reason) == ('invalid', 'solved_at_reset')
    assert result.steps == 0


@pytest.mark.parametrize('answer, reason', [
    ([float('nan'), 0.0], 'policy_returned_nan'),
    ([float('inf'), 0.0], 'policy_returned_inf'),
    (np.zeros(6), 'policy_returned_shape (6,), expected (2,)'),
    (np.zeros((1, 2)), 'policy_returned_shape (1, 2), expected (2,)'),
    (None, 'policy_returned_shape (), expected (2,)'),
    ('left', 'policy_returned_type str, expected numbers'),
    ([[1.0], [1.0, 2.0]], 'policy_returned_type list, expected numbers'),
    (ValueError('no such\n  key'), 'policy_raised ValueError: no such key'),
    (UserError('x' * 300), f'policy_raised UserError: {"x" * 300}'[:200]),
    ([0.5, 0.0], 'world_raised ArithmeticError: the arm has come off'),
])
def test_what_misbehaves_makes_the_rollout_invalid(answer, reason):
    result = one(answer)
    assert (result.outcome.verdict, result.outcome.reason) == ('invalid', reason)
    assert result.steps == (1 if 'world' in reason else 0)
    assert result.last_frame.shape == (84, 84, 3)


def test_policy_that_raises_at_reset():
    policy = ScriptedPolicy([0.0, 0.0])
    policy.reset = None
    outcome = run_rollout(CounterWorld(), policy, REQUEST).outcome
    assert outcome.verdict == 'invalid' and outcome.reason.startswith('policy_raised TypeError')


def test_condition_that_cannot_be_is_the_users_error():
    request = RolloutRequest('sweep/blue_cube/0', Condition((CATALOGUE['blue_cube'],)), 0, 0)
    with pytest.raises(UserError, match='no blue cube'):
        run_rollout(CounterWorld(), ScriptedPolicy([0.0, 0.0]), request)


def test_rollout_is_canceled_by_its_observer():
    steps = []

    def on_step(step):
        steps.append(step)
        return step == 2

    with pytest.raises(RolloutCanceled, match='control/0'):
        one([0.0, 0.0], on_step=on_step)
    assert steps == [1, 2]


def test_local_runner_runs_in_order_and_resets_the_policy():
    policy = ScriptedPolicy([1.0, 0.0])
    runner = LocalRunner(CounterWorld(), policy)
    requests = [RolloutRequest(f'control/{trial}', NOMINAL, 0, trial) for trial in range(3)]
    assert [result.request for result in runner.run(requests)] == requests
    assert policy.instructions == ['lift the cube'] * 3
    assert (runner.parallel, runner.horizon) == (1, 5)


def test_local_runner_cancels_what_runs_and_what_the_stop_itself_broke():
    asked = iter([False, False, True])
    runner = LocalRunner(CounterWorld(), ScriptedPolicy([0.0, 0.0]), lambda: next(asked))
    with pytest.raises(RolloutCanceled, match='control/0'):
        list(runner.run([REQUEST]))
    assert next(asked, 'all asked') == 'all asked'
    broken = LocalRunner(CounterWorld(), ScriptedPolicy(OSError('gone')), lambda: True)
    with pytest.raises(RolloutCanceled, match='control/0'):
        list(broken.run([REQUEST]))


def test_versions_name_what_results_depend_on():
    found = versions()
    assert {'robomd_ros', 'python', 'numpy', 'mujoco', 'robosuite', 'torch'} <= found.keys()
    assert found['numpy'] == np.__version__
