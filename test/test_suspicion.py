# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Suspicion: states restored, the deviation of a policy's actions, its file and its command."""

import dataclasses
import io
import json
from pathlib import Path
import random

from coin_runner import CATALOGUE, CoinRunner, INFO
import numpy as np
import pytest
from robomd_ros.cli import main, suspect
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.diagnosis.suspicion import measure_suspicion, read_suspicion, Suspicion
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy, PolicyNeeds
from robomd_ros.reports.suspicion import COLORS, kind, suspicion_png, suspicion_table
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
            return np.append(np.tanh(observation['robot0_eef_pos']), [0, 0, 0, self.calls % 2])

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
    (found,) = deviation_of(answer)
    assert found.gripper == pytest.approx(0.25)
    assert found.translation == pytest.approx(0.25 * 3 ** 0.5)
    # The nominal rollouts draw as all rollouts do; what asks in their states leaves no trace.
    random.setstate(before[0])
    torch.set_rng_state(torch.tensor(before[1], dtype=torch.uint8))
    for _ in range(ROLLOUTS * 10):
        torch.rand(3)
    after = torch.get_rng_state()
    torch.set_rng_state(torch.tensor(before[1], dtype=torch.uint8))
    deviation_of(answer)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(('answer', 'why'), [
    (lambda place, changes: np.full(7, np.nan if changes else 0.0), 'red_cube cannot'),
    (lambda place, changes: np.zeros(6 + (not changes)), '(policy_returned_shape (6,), '),
    (lambda place, changes: np.zeros(7) / (1 - changes) if not changes else 1 // 0,
     '(policy_raised ZeroDivisionError'),
    (lambda place, changes: np.full(7, np.inf), 'nominal cannot be measured (policy_returned_in')])
def test_a_policy_that_gives_no_action_is_refused_in_one_sentence(answer, why):
    with pytest.raises(PolicyUnusable) as refused:
        deviation_of(answer)
    sentence = str(refused.value)
    assert why in sentence and sentence.endswith('.') and '\n' not in sentence


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


# suspicion.json

SETTINGS = {'task': 'lift', 'policy_digest': 'b' * 64, 'catalogue_digest': CATALOGUE.digest,
            'model_digest': 'c' * 64, 'fidelity': 'fast', 'horizon': 100, 'seed': 0}


def test_the_file_answers_for_the_same_policy_and_for_no_other(tmp_path):
    out = tmp_path / 'new'
    assert read_suspicion(out, CATALOGUE, SETTINGS) is None
    told = []
    found = measure_suspicion(out, CATALOGUE, CoinRunner(), SETTINGS | {'rollouts': 9},
                              {'mujoco': '3'}, 'robomd suspect', told.append)
    assert told == [1, 2, 3, 4, 5, 6] and tuple(found.deviation) == CATALOGUE.names
    assert max(found.deviation, key=found.deviation.get) == 'green_table'
    assert read_suspicion(out, CATALOGUE, SETTINGS) == found
    for name, value in SETTINGS.items():
        other = value + 1 if isinstance(value, int) else f'{value}!'
        assert read_suspicion(out, CATALOGUE, SETTINGS | {name: other}) is None
    content = json.loads((out / 'suspicion.json').read_text())
    assert (content['versions'], content['command']) == ({'mujoco': '3'}, 'robomd suspect')
    assert content['settings'] == SETTINGS
    (out / 'suspicion.json').write_text('{')
    assert read_suspicion(out, CATALOGUE, SETTINGS) is None


# What people are shown

FOUND = Suspicion(
    {name: number / 4 for number, name in enumerate(LIFT.names)},
    {name: number / 8 for number, name in enumerate(LIFT.names)}, 35, 4)


def test_the_table_is_ranked_and_says_what_it_is():
    lines = suspicion_table(FOUND, LIFT, 'lift, policy builtin:lift').splitlines()
    assert max(map(len, lines)) <= 96
    names = [line.split()[0] for line in lines if '_' in line.split(' ')[0]]
    assert names == list(LIFT.names[::-1])
    first = next(line for line in lines if line.startswith(names[0]))
    assert first.split()[1:4] == [LIFT[names[0]].slot, '5.000', '2.500']
    assert first.count('█') == max(line.count('█') for line in lines) > 10
    text = ' '.join(lines)
    assert '35 states of 4 nominal rollouts' in text and 'neither is a failure rate' in text
    assert 'changes of size, friction and mass can move the actions little and still fail' in text


@pytest.mark.parametrize('found', [FOUND, Suspicion(
    dict.fromkeys(LIFT.names, 0.0), dict.fromkeys(LIFT.names, 0.0), 1, 1)])
def test_the_figure_is_a_picture_with_the_kinds_colours(found):
    from matplotlib import colors, image

    picture = image.imread(io.BytesIO(suspicion_png(found, LIFT, 'lift')))[..., :3]
    assert picture.shape[0] > 600 and picture.shape[1] > 1000
    assert {kind(perturbation) for perturbation in LIFT} == {'colour', 'light', 'size'}
    for each in ('colour', 'light', 'size'):
        assert (abs(picture - colors.to_rgb(COLORS[each])).max(axis=2) < 0.01).any()
    suspicion_table(found, LIFT, 'lift')


POLICIES = f'python:{Path(__file__).with_name("cli_policies.py")}'


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Return what runs `robomd suspect` on two perturbations and returns its exit code."""
    monkeypatch.setattr('robomd_ros.cli._COMMANDS', (suspect,))
    catalogue = tmp_path / 'two.yaml'
    catalogue.write_text(
        'task: lift\nperturbations:\n'
        '  - {name: red, slot: robot.color, value: [1, 0, 0], sentence: Paint the robot}\n'
        '  - {name: gray, slot: table.color, value: [0.7, 0.7, 0.7], sentence: Paint the table}\n')

    def run(*words):
        return main(['suspect', '--catalogue', str(catalogue), '--fidelity', 'fast', '--out',
                     str(tmp_path / 'out'), *words])
    return run


def test_the_command_measures_once_and_shows(command, tmp_path, capsys):
    assert command() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if '.color' in line] == ['red', 'gray']
    path = tmp_path / 'out' / 'suspicion.json'
    content = json.loads(path.read_text())
    assert content['command'].startswith('robomd suspect --catalogue ')
    assert (tmp_path / 'out' / 'suspicion.png').read_bytes().startswith(b'\x89PNG')
    content['suspicion']['deviation']['gray'] = 9.0
    path.write_text(json.dumps(content))
    assert command() == 0  # and says what the file does, having measured nothing
    assert '9.000' in capsys.readouterr().out
    assert command('--seed', '1') == 0
    assert '9.000' not in capsys.readouterr().out
    assert json.loads(path.read_text())['settings']['seed'] == 1


@pytest.mark.parametrize(('words', 'why'), [
    (['--policy', f'{POLICIES}:nan_from_the_third_step'], '(policy_returned_nan);'),
    (['--seed', '-1'], '--seed must be from 0 to 2147483647, not -1.'),
    (['--catalogue', '/nowhere.yaml'], 'There is no catalogue /nowhere.yaml'),
    (['--out', '/dev/null/out'], 'cannot be written')])
def test_what_is_given_wrong_is_one_sentence(command, capsys, words, why):
    assert command(*words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('robomd: ') and why in last
