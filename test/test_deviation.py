# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""States of the world restored under a change, and the deviation of a policy's actions there."""

import dataclasses
import math
from pathlib import Path
import random

from coin_runner import CATALOGUE, INFO
import numpy as np
import pytest
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy, PolicyNeeds
from robomd_ros.policies.noise import Noise
from robomd_ros.rollouts import (
    LocalRunner,
    PolicyUnusable,
    RolloutCanceled,
    RolloutRequest,
    RunnerError,
)
from robomd_ros.rollouts.deviation import EVERY, measure_deviations, ROLLOUTS
from robomd_ros.rollouts.protocol import Deviation
from robomd_ros.worlds.mujoco_world import MujocoWorld
from robomd_ros.worlds.protocol import Outcome
import torch

LIFT = load_catalogue(Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml')
STATE = ('robot0_eef_pos', 'robot0_eef_quat', 'robot0_joint_pos', 'robot0_joint_vel',
         'robot0_gripper_qpos', 'robot0_gripper_qvel', 'object')


@pytest.fixture(scope='module')
def world():
    made = MujocoWorld(
        'lift', PolicyNeeds(images={'agentview': (84, 84)}, state=STATE, fidelity='fast'),
        horizon=40)
    yield made
    made.close()


def same(first, second):
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first)


# States put back in MuJoCo


@pytest.mark.parametrize('condition', [
    NOMINAL, *(Condition((perturbation,)) for perturbation in LIFT),
    LIFT.condition(['big_cube', 'red_table', 'green_light']),
    Condition((Perturbation('wood', 'table.texture', 'red-wood', 'A'),
               Perturbation('turned', 'camera.rotation', (10.0, 5.0, -5.0), 'A')))],
    ids=lambda condition: condition.label)
def test_a_restored_state_shows_what_a_reset_under_the_condition_does(world, condition):
    world.reset(NOMINAL, 0, 3)
    state = world.state()
    seen = world.reset(condition, 0, 3)
    assert np.array_equal(world.state(), state)  # resized bodies are as high in it as nominal ones
    again = world.restore(NOMINAL, state)
    assert same(again, world.reset(NOMINAL, 0, 3))
    assert not len(condition) or not same(again, seen)
    assert same(world.restore(condition, state), seen)
    assert same(world.restore(condition, state), seen)


def test_restoring_leaves_physics_and_model_as_they_were(world):
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 7))

    def run(interrupted):
        frames = [world.reset(NOMINAL, 0, 5)]
        for step, action in enumerate(actions):
            if interrupted and step % 7 == 6:
                state = world.state()
                for name in ('red_table', 'big_cube', 'small_cube'):
                    world.restore(LIFT.condition([name]), state)
                world.restore(NOMINAL, state)
                assert world.model_digest() == world.info.model_digest
                assert np.array_equal(world.state(), state)
            frames.append(world.step(action))
        return frames

    assert all(same(*frames) for frames in zip(run(False), run(True), strict=True))


def test_a_state_is_restored_after_everything_has_moved(world):
    world.reset(NOMINAL, 0, 5)
    for action in np.random.default_rng(1).uniform(-1, 1, (9, 7)):
        last = world.step(action)
    state = world.state()
    seen = world.restore(NOMINAL, state)
    for name in ('robot0_joint_pos', 'robot0_joint_vel', 'robot0_gripper_qvel'):
        assert np.array_equal(seen[name], last[name]) and last[name].any()
    np.testing.assert_allclose(seen['robot0_eef_pos'], last['robot0_eef_pos'], atol=2e-3)
    world.reset(LIFT.condition(['big_cube', 'red_table']), 0, 9)
    world.step(np.ones(7))
    assert same(world.restore(NOMINAL, state), seen)
    assert np.array_equal(world.state(), state)


def test_a_condition_that_cannot_be_is_refused_and_leaves_the_nominal_scene(world):
    seen = world.reset(NOMINAL, 0, 1)
    state = world.state()
    ghost = Condition((Perturbation('ghost', 'body:ghost.mass', 1.0, 'A'),))
    with pytest.raises(UserError, match='ghost'):
        world.restore(ghost, state)
    assert same(world.restore(NOMINAL, state), seen)
    assert world.model_digest() == world.info.model_digest


# The builtin policy


def test_the_builtin_policy_deviates_where_it_is_known_to_fail(world):
    conditions = [NOMINAL, LIFT.condition(['gray_table']), LIFT.condition(['red_robot']),
                  LIFT.condition(['gray_table', 'red_robot'])]
    runner = LocalRunner(world, load_policy('builtin:lift', 'lift'))
    request = RolloutRequest('a', LIFT.condition(['green_light']), 0, 1)
    result, = runner.run([request])
    moved_under, told = set(), []
    step = world.step

    def watched(action):
        moved_under.add(world._condition)
        return step(action)

    world.step = watched
    try:
        found = runner.deviations(conditions, 0, told.append)
    finally:
        del world.step
    assert moved_under == {NOMINAL} and told == [1, 2, 3, 4]
    nominal, gray, red, both = found
    assert nominal.translation == nominal.gripper == 0.0
    assert 0 < gray.translation < 0.1 < 0.5 < min(red.translation, both.translation)
    assert both.translation != red.translation
    assert {each.rollouts for each in found} == {ROLLOUTS}
    assert {each.states for each in found} == {nominal.states} and nominal.states > 3 * ROLLOUTS
    assert runner.deviations(conditions[:0:-1], 0) == found[:0:-1]
    assert runner.deviations(conditions[1:2], 1) != [gray]
    after, = runner.run([request])
    assert (after.outcome, after.steps) == (result.outcome, result.steps)
    assert np.array_equal(after.last_frame, result.last_frame)


def test_a_blind_policy_never_deviates(world):
    class Blind:
        needs = PolicyNeeds(state=STATE, fidelity='fast')
        digest = 'b' * 64

        def reset(self, instruction):
            self.calls = 0

        def act(self, observation):  # its gripper tells how often it was asked
            self.calls += 1
            return np.append(np.tanh(observation['robot0_eef_pos']), [0, 0, 0, 0.01 * self.calls])

    colors = [LIFT.condition([name]) for name in ('red_table', 'green_cube', 'blue_light')]
    for each in measure_deviations(world, Blind(), colors, 0):
        assert (each.translation, each.gripper) == (0.0, 0.0)


# A world and policies made up to know what comes out


class Corridor:
    """
    A place that grows by one a step; over at the tenth.

    Trial 3 of seed 7, and every trial of seed 8, is solved at reset. The observation has the place
    and how many perturbations there are.
    """

    info = dataclasses.replace(INFO, horizon=10)

    def reset(self, condition, seed, trial):
        self._solved = (seed, trial) == (7, 3) or seed == 8
        self._place = 0.0
        return self._observe(condition)

    def step(self, action):
        self._place += 1
        return self._observe(NOMINAL)

    def outcome(self):
        if self._solved:
            return Outcome('success')
        return Outcome('failure') if self._place == self.info.horizon else None

    def state(self):
        return np.array([self._place])

    def restore(self, condition, state):
        if 'blue_cube' in condition.names:
            raise UserError('There is no blue cube.')
        self._place = float(state[0])
        return self._observe(condition)

    def picture(self):
        return np.zeros((84, 84, 3), np.uint8)

    def _observe(self, condition):
        return {'place': np.array([self._place]), 'changes': np.array([len(condition)])}


class Scripted:
    """Answers what a function of place and number of changes does."""

    needs = PolicyNeeds()
    digest = 'b' * 64

    def __init__(self, answer):
        self._answer = answer

    def reset(self, instruction):
        self.instruction = instruction

    def act(self, observation):
        return self._answer(observation['place'][0], int(observation['changes'][0]))


def one(*names):
    return CATALOGUE.condition(names)


def deviation_of(answer, *conditions, seed=0, **others):
    return measure_deviations(
        Corridor(), Scripted(answer), conditions or [one('red_cube')], seed, **others)


def test_the_deviation_is_the_mean_distance_of_the_translation():
    def answer(place, changes):
        far = changes * (1 + (place == 9))  # every third state of ten: 0, 3, 6 and 9
        return np.array([0.03 * far, 0.0, 0.04 * far, 0.5 * far, 0.5, -0.5, -0.2 * changes])

    single, double = deviation_of(answer, one('red_cube'), one('red_cube', 'green_table'))
    assert EVERY == 3 and single.states == 4 * ROLLOUTS
    assert single.translation == pytest.approx(0.05 * 5 / 4)
    assert single.gripper == pytest.approx(0.2)
    assert double.translation == pytest.approx(2 * single.translation)
    assert double.gripper == pytest.approx(0.4)


def test_a_policy_that_draws_is_compared_on_the_same_noise():
    def answer(place, changes):
        drawn = [random.random(), *np.random.uniform(size=3), *torch.rand(3).tolist()]
        return np.array(drawn) + 0.25 * changes

    np.random.seed(3)
    torch.manual_seed(3)
    random.seed(3)
    before = [random.getstate(), torch.get_rng_state().tolist()]
    found, = deviation_of(answer)
    assert found.gripper == pytest.approx(0.25)
    assert found.translation == pytest.approx(0.25 * 3 ** 0.5)
    # The noise is a function of the state's number, whatever has been drawn before.
    louder = {deviation_of(lambda place, changes: answer(place, 0) * changes)[0] for _ in range(3)}
    assert len(louder) == 1
    # The nominal rollouts draw as all rollouts do; what asks in their states leaves no trace.
    random.setstate(before[0])
    torch.set_rng_state(torch.tensor(before[1], dtype=torch.uint8))
    for _ in range(ROLLOUTS * 10):
        torch.rand(3)
    after = torch.get_rng_state()
    torch.set_rng_state(torch.tensor(before[1], dtype=torch.uint8))
    deviation_of(answer)
    assert torch.equal(torch.get_rng_state(), after)


def test_noise_that_follows_the_first_observation_is_the_same_as_well():
    noise = Noise()

    class Drawing(Scripted):

        def reset(self, instruction):
            noise.reset()

        def act(self, observation):
            with noise.drawing(observation):
                return torch.rand(7).double().numpy() + 0.25 * observation['changes'][0]

    found, = measure_deviations(Corridor(), Drawing(None), [one('red_cube')], 0)
    assert found.gripper == pytest.approx(0.25)


NO_ACTION = pytest.mark.parametrize(('bad', 'why'), [
    (lambda: np.full(7, np.nan), '(policy_returned_nan)'),
    (lambda: np.full(7, np.inf), '(policy_returned_inf)'),
    (lambda: np.zeros(6), '(policy_returned_shape (6,), '),
    (lambda: 1 // 0, '(policy_raised ZeroDivisionError')])


@NO_ACTION
def test_a_condition_without_an_action_has_no_deviation_and_the_others_have(bad, why):
    def answer(place, changes):  # under two changes there is none in one of the states
        return bad() if changes == 2 and place == 6 else np.full(7, 0.25 * changes)

    two, told = one('red_cube', 'green_table'), []
    before, silent, after = deviation_of(
        answer, one('red_cube'), two, one('green_table'), on_progress=told.append)
    assert before == after and after.gripper == pytest.approx(0.25)
    assert math.isnan(silent.translation) and math.isnan(silent.gripper)
    assert (silent.states, silent.rollouts) == (4 * ROLLOUTS, ROLLOUTS) and told == [1, 2, 3]


@NO_ACTION
@pytest.mark.parametrize('asked_anew', [False, True], ids=['in a rollout', 'from a fresh start'])
def test_a_policy_that_gives_no_action_in_the_nominal_scene_is_refused_in_one_sentence(
        bad, why, asked_anew):
    calls = []

    def answer(place, changes):
        calls.append(place)
        return bad() if changes == 0 and len(calls) > 10 * ROLLOUTS * asked_anew else np.zeros(7)

    with pytest.raises(PolicyUnusable) as refused:
        deviation_of(answer)
    sentence = str(refused.value)
    assert f'nominal cannot be measured {why}' in sentence
    assert sentence.endswith('.') and '\n' not in sentence


def test_what_the_world_cannot_be_set_to_is_said():
    with pytest.raises(UserError, match='no blue cube'):
        deviation_of(lambda place, changes: np.zeros(7), one('blue_cube'))


def test_rollouts_that_are_solved_at_reset_give_no_states():
    def still(place, changes):
        return np.zeros(7)

    assert deviation_of(still, seed=7)[0] == Deviation(0.0, 0.0, 4 * (ROLLOUTS - 1), ROLLOUTS - 1)
    with pytest.raises(RunnerError, match='solved at reset'):
        deviation_of(still, seed=8)


@pytest.mark.parametrize('moment', [5, 10 * ROLLOUTS + 2, 14 * ROLLOUTS + 3])
def test_it_stops_when_it_is_told_to(moment):
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) >= moment

    with pytest.raises(RolloutCanceled):
        deviation_of(lambda place, changes: np.zeros(7), should_stop=should_stop)
    assert len(asked) == moment


def test_a_policy_that_was_broken_by_the_wish_to_stop_is_not_blamed():
    stop = []

    def answer(place, changes):
        if changes:
            stop.append(True)
            raise KeyError('interrupted')
        return np.zeros(7)

    with pytest.raises(RolloutCanceled):
        deviation_of(answer, should_stop=lambda: bool(stop))
