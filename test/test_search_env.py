# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The search environment, and the sweep."""

from collections import Counter

from coin_runner import a_picture, a_search, CATALOGUE, CoinRunner, HORIZON
from gymnasium.utils.env_checker import check_env
import numpy as np
import pytest
from robomd_ros.conditions import Condition, NOMINAL
from robomd_ros.diagnosis import sweep
from robomd_ros.diagnosis.environment import SearchEnv
from robomd_ros.rollouts.protocol import RolloutRequest
from robomd_ros.worlds.protocol import Outcome

INDEX = {name: place for place, name in enumerate(CATALOGUE.names)}


class TellingRunner(CoinRunner):
    """Has every rollout end as the verdicts say, one after the other; remembers the requests."""

    def __init__(self, *verdicts: str) -> None:
        super().__init__()
        self._verdicts = iter(verdicts)
        self.requests: list[RolloutRequest] = []

    def outcome(self, request, failed):
        """Return the next verdict; control rollouts succeed."""
        self.requests.append(request)
        if request.key.startswith('control/'):
            return Outcome('success')
        verdict = next(self._verdicts)
        return Outcome(verdict, 'policy_returned_nan' if verdict == 'invalid' else '')


@pytest.mark.parametrize('reward', ['paper', 'flat', 'eq1_direction'])
def test_environment_is_one_of_gymnasiums(reward):
    check_env(SearchEnv(CATALOGUE, CoinRunner(), reward=reward))


def test_what_is_shown_is_the_scene_as_the_rollout_first_saw_it():
    environment = SearchEnv(CATALOGUE, TellingRunner('success', 'success'))
    nominal, info = environment.reset()
    assert np.array_equal(nominal, a_picture(NOMINAL)) and info == {'condition': []}
    shown, *_ = environment.step(INDEX['red_table'])
    condition = Condition((CATALOGUE['red_table'],))
    assert np.array_equal(shown, a_picture(condition))
    again, _ = environment.reset()
    assert np.array_equal(again, nominal)


def test_same_slot_overwrites_and_others_add_up():
    runner = TellingRunner(*['success'] * 4)
    environment = SearchEnv(CATALOGUE, runner)
    environment.reset()
    for name in ('red_table', 'blue_cube', 'green_table', 'green_table'):
        *_, info = environment.step(INDEX[name])
    assert [request.condition.label for request in runner.requests] == [
        'nominal', 'red_table', 'blue_cube+red_table', 'blue_cube+green_table',
        'blue_cube+green_table']
    assert info['condition'] == ['blue_cube', 'green_table']


def test_episode_is_truncated_after_five_perturbations():
    environment = SearchEnv(CATALOGUE, TellingRunner(*['success'] * 10))
    for _ in range(2):
        environment.reset()
        ends = [environment.step(INDEX['red_table'])[2:4] for _ in range(5)]
        assert ends == [(False, False)] * 4 + [(False, True)]


def test_episode_is_truncated_after_as_many_as_asked_for():
    environment = SearchEnv(
        CATALOGUE, TellingRunner(*['success'] * 2), max_perturbations=2)
    environment.reset()
    assert [environment.step(0)[3] for _ in range(2)] == [False, True]


def test_after_a_failure_the_scene_is_nominal_again():
    runner = TellingRunner('success', 'failure', 'success')
    environment = SearchEnv(CATALOGUE, runner)
    environment.reset()
    environment.step(INDEX['red_table'])
    assert environment.step(INDEX['blue_cube'])[1:4] == (1.0, True, False)
    environment.reset()
    environment.step(INDEX['green_cube'])
    assert runner.requests[-1].condition.label == 'green_cube'


def test_invalid_rollout_is_worth_nothing_and_truncates():
    environment = SearchEnv(CATALOGUE, TellingRunner('invalid'))
    environment.reset()
    _, reward, terminated, truncated, info = environment.step(0)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info['verdict'], info['reason']) == ('invalid', 'policy_returned_nan')


@pytest.mark.parametrize('reward, worth', [
    ('paper', lambda t: -0.5 * t), ('flat', lambda t: -0.5),
    ('eq1_direction', lambda t: -0.5 / t)])
def test_rewards_of_success(reward, worth):
    environment = SearchEnv(CATALOGUE, TellingRunner('success'), reward=reward)
    environment.reset()
    _, got, _, _, info = environment.step(INDEX['red_cube'])
    assert 30 <= info['steps'] < HORIZON
    assert got == pytest.approx(worth(info['steps'] / HORIZON))


def test_every_rollout_starts_from_an_initial_state_of_its_own():
    runner = TellingRunner(*['success', 'failure'] * 10)
    environment = SearchEnv(CATALOGUE, runner, seed=7)
    environment.reset()
    for action in range(20):
        if any(environment.step(action % 6)[2:4]):
            environment.reset()
    assert len({(request.key, request.trial) for request in runner.requests}) == 21
    assert {request.seed for request in runner.requests} == {7}
    assert [request.trial for request in runner.requests] == [0, *range(20)]  # control/0 first


def test_how_likely_a_choice_was_is_asked_for_with_it():
    runner = TellingRunner('success', 'success')
    environment = SearchEnv(CATALOGUE, runner)
    environment.reset()
    environment.take(0, 0.25)
    environment.step(1)
    assert [(r.purpose, r.probability) for r in runner.requests] == [
        ('control', None), ('discovery', 0.25), ('discovery', None)]


# The sweep.

@pytest.mark.parametrize('rollouts, control', [(1, 1), (7, 1), (40, 20), (70, 7), (420, 42)])
def test_sweep_tries_all_equally_often_on_the_same_initial_states(rollouts, control):
    asked = list(sweep.requests(a_search(CoinRunner(), rollouts, control, purpose='confirmation')))
    counts = Counter(request.condition.label for request in asked)
    assert len(asked) == rollouts and counts['nominal'] == control
    each, rest = divmod(rollouts - control, len(CATALOGUE))
    assert [counts[name] for name in CATALOGUE.names] == [
        each + (place < rest) for place in range(len(CATALOGUE))]
    for name in counts:
        trials = [request.trial for request in asked if request.condition.label == name]
        assert trials == list(range(counts[name]))
    assert len({request.key for request in asked}) == rollouts
    assert {(r.purpose, r.probability) for r in asked if r.condition != NOMINAL} <= {
        ('confirmation', 1.0)}


@pytest.mark.parametrize('rollouts, control', [(40, 20), (420, 42), (100, 3), (9, 8)])
def test_control_rollouts_are_spread_evenly(rollouts, control):
    asked = list(sweep.requests(a_search(CoinRunner(), rollouts, control)))
    assert asked[0].condition == NOMINAL
    for place in range(1, rollouts + 1):
        controls = sum(request.condition == NOMINAL for request in asked[:place])
        assert abs(controls - place * control / rollouts) <= 1


def test_sweep_ends_with_a_round_when_it_is_settled():
    answers = iter([False, False, True])
    search = a_search(CoinRunner(), 60, 6, settled=lambda: next(answers))
    tried = [r for r in sweep.requests(search) if r.condition != NOMINAL]
    assert len(tried) == 2 * len(CATALOGUE)
