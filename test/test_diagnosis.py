# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The search environment, the sweep, the failure map, and a whole diagnosis."""

from collections import Counter
from contextlib import closing
from itertools import islice
import json
from pathlib import Path
import sqlite3

from coin_runner import (
    a_diagnosis,
    a_picture,
    CATALOGUE,
    CoinRunner,
    failure_rate,
    HORIZON,
    killed_at_random,
    settings,
)
from gymnasium.utils.env_checker import check_env
import numpy as np
import pytest
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL
from robomd_ros.diagnosis import sweep
from robomd_ros.diagnosis.environment import SearchEnv
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.run import check_settings, DiagnosisCanceled, Progress
from robomd_ros.diagnosis.statistics import wilson
from robomd_ros.errors import UserError
from robomd_ros.rollouts import LedgerError, OtherRunError, PolicyUnusable
from robomd_ros.rollouts.protocol import RolloutRequest, RunnerError
from robomd_ros.worlds.protocol import Outcome

LIFT = Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml'
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


# Statistics.

@pytest.mark.parametrize('failures, n, interval', [
    (0, 0, (0, 1)), (0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (1, 20, (0.0089, 0.2361)),
    (50, 100, (0.4038, 0.5962))])  # computed by hand from Wilson's formula
def test_wilson(failures, n, interval):
    assert wilson(failures, n) == pytest.approx(interval, abs=5e-5)


def test_wilson_of_nothing_but_failures_ends_exactly_at_one():
    assert {wilson(n, n)[1] for n in range(1, 200)} == {1.0}
    assert {wilson(0, n)[0] for n in range(1, 200)} == {0.0}


def test_wilson_covers():
    generator = np.random.default_rng(0)
    rates = generator.uniform(size=4000)
    intervals = np.array([wilson(int(failures), 40) for failures in generator.binomial(40, rates)])
    inside = (intervals[:, 0] <= rates) & (rates <= intervals[:, 1])
    assert 0.94 < inside.mean() < 0.965


# The environment.

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


# The sweep.

@pytest.mark.parametrize('number', [1, 6, 7, 40, 70])
def test_sweep_tries_all_equally_often_on_the_same_initial_states(number):
    asked = list(islice(sweep.requests(CATALOGUE, 3), number))
    counts = Counter(request.condition.label for request in asked)
    arms = ['nominal', *CATALOGUE.names]
    each, rest = divmod(number, len(arms))
    assert [counts[name] for name in arms] == [each + (place < rest) for place in range(len(arms))]
    for name in arms:
        trials = [request.trial for request in asked if request.condition.label == name]
        assert trials == list(range(counts[name]))
    assert len({request.key for request in asked}) == number


def test_sweep_is_balanced_wherever_it_stops(tmp_path):
    runner = CoinRunner(2)
    with pytest.raises(DiagnosisCanceled):
        a_diagnosis(settings(tmp_path), runner, should_stop=lambda: len(runner.ran) >= 23)
    rows = read_map(tmp_path).perturbations
    assert {row.n for row in rows} <= {2, 3, 4}
    assert 23 <= read_map(tmp_path).budget['done'] <= 25


# The failure map.

def read_map(out: Path) -> FailureMap:
    """Return what is in the file."""
    return FailureMap.from_json((out / 'failure_map.json').read_text())


def test_map_counts_rollouts_of_a_perturbation_alone(tmp_path):
    found = a_diagnosis(settings(tmp_path, rollouts=7 * 60), CoinRunner(2))
    rows = {row.name: row for row in found.perturbations}
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as ledger:
        for name, row in rows.items():
            failures, = ledger.execute('SELECT count(*) FROM rollouts WHERE condition = ? AND '
                                       "verdict = 'failure'", [json.dumps([name])]).fetchone()
            assert (row.n, row.failures, row.failure_rate) == (60, failures, failures / 60)
            assert row.interval == wilson(failures, 60) and row.search_mass is None
            true = failure_rate(Condition((CATALOGUE[name],)))
            assert abs(row.failure_rate - true) < 3.5 * np.sqrt(true * (1 - true) / 60) + 1e-9
    assert [row.name for row in found.perturbations[:2]] == ['green_table', 'red_table']
    assert [row.rank for row in found.perturbations] == [1, 2, 3, 4, 5, 6]
    assert (found.nominal.n, found.nominal.rank, found.nominal.slot) == (60, None, '')
    assert found.budget == {'asked': 420, 'done': 420, 'invalid': 0}


def test_stacked_conditions_have_their_own_table(tmp_path):
    found = a_diagnosis(settings(tmp_path, searcher='ppo', rollouts=60), CoinRunner())
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as ledger:
        tried = Counter(condition for condition, in ledger.execute(
            "SELECT condition FROM rollouts WHERE verdict != 'invalid'"))
    assert {json.dumps(row.perturbations): row.n for row in found.conditions} == {
        condition: n for condition, n in tried.items() if len(json.loads(condition)) > 1}
    assert found.conditions
    for row in found.perturbations:
        assert row.n == tried[json.dumps([row.name])]
    assert found.nominal.n == tried['[]'] == 6
    assert sum(row.search_mass for row in found.perturbations) == pytest.approx(1)


def test_ranks(tmp_path):
    fails = {'red_cube': 4, 'green_cube': 5, 'blue_cube': 4, 'red_table': 0, 'blue_table': 5}
    invalid = {'green_table'}

    class Rigged(CoinRunner):

        def outcome(self, request, failed):
            name = request.condition.label
            if name in invalid:
                return Outcome('invalid', 'solved_at_reset')
            return Outcome('failure' if request.trial < fails.get(name, 0) else 'success')

    found = a_diagnosis(settings(tmp_path, rollouts=7 * 5), Rigged())
    assert [(row.name, row.rank) for row in found.perturbations] == [
        ('blue_table', 1), ('green_cube', 2), ('blue_cube', 3), ('red_cube', 4), ('red_table', 5),
        ('green_table', None)]
    last = found.perturbations[-1]
    assert (last.n, last.failure_rate, last.interval, last.invalid) == (0, None, (0, 1), 5)
    assert found.invalid_reasons == {'solved_at_reset': 5} and found.budget['invalid'] == 5


def test_lower_end_of_the_interval_counts_and_not_the_rate(tmp_path):
    sure = {'red_cube': ['failure'] * 2, 'blue_cube': ['failure'] * 19 + ['success']}

    class Uneven(CoinRunner):

        def outcome(self, request, failed):
            verdicts = sure.get(request.condition.label, [])
            return Outcome(verdicts[request.trial]) if request.trial < len(verdicts) else Outcome(
                'invalid', 'solved_at_reset')

    found = a_diagnosis(settings(tmp_path, rollouts=7 * 20), Uneven())
    rates = [(row.name, row.failure_rate) for row in found.perturbations[:2]]
    assert rates == [('blue_cube', 0.95), ('red_cube', 1.0)]


def test_file_says_what_the_map_says(tmp_path):
    found = a_diagnosis(settings(tmp_path, searcher='ppo', rollouts=30), CoinRunner())
    assert read_map(tmp_path) == found
    content = json.loads((tmp_path / 'failure_map.json').read_text())
    assert (content['format'], content['version']) == ('robomd_ros/failure_map', 1)
    assert content['settings'] == {
        'task': 'lift', 'policy': 'builtin:lift', 'policy_digest': 'b' * 64,
        'catalogue': '/catalogue.yaml', 'catalogue_digest': 'a' * 64, 'searcher': 'ppo',
        'rollouts': 30, 'seed': 0, 'reward': 'paper', 'max_perturbations': 5, 'horizon': 100,
        'parallel': 1, 'world': 'mujoco',
        'model_digest': 'c' * 64, 'fidelity': 'fast', 'renderer': 'egl'}
    assert set(content['nominal']) == {
        'name', 'sentence', 'n', 'failures', 'failure_rate', 'interval', 'search_mass', 'rank',
        'invalid'}
    assert set(content['perturbations'][0]) == {*content['nominal'], 'slot', 'value'}
    assert set(content['conditions'][0]) == {
        'perturbations', 'n', 'failures', 'failure_rate', 'interval', 'invalid'}
    assert content['versions'] == {'robomd_ros': '0.1.0'}
    assert content['command'] == 'robomd diagnose'


@pytest.mark.parametrize('text', [
    '', '[]', '{}', '{"format": "robomd_ros/failure_map", "version": 2}',
    '{"format": "robomd_ros/failure_map", "version": 1, "nominal": {}}'])
def test_what_is_no_map(text):
    with pytest.raises(UserError, match='not a failure map'):
        FailureMap.from_json(text)


# A whole diagnosis.

@pytest.mark.parametrize('wrong, sentence', [
    ({'searcher': 'magic'}, "Unknown searcher 'magic'; choose one of ppo, sweep"),
    ({'rollouts': 0}, '0 rollouts are too few'), ({'rollouts': -5}, '-5 rollouts are too few'),
    ({'rollouts': 2, 'searcher': 'ppo'}, '2 rollouts are too few.*ask for 3'),
    ({'rollouts': 2**31}, 'rollouts must be a whole number from 1 to 2147483647'),
    ({'seed': -1}, 'seed must be a whole number from 0 to 2147483647, not -1'),
    ({'seed': 2**31}, 'seed must be a whole number from 0 to 2147483647, not 2147483648'),
    ({'reward': 'gold'}, "Unknown reward 'gold'; choose one of paper, flat, eq1_direction"),
    ({'max_perturbations': 0}, 'max_perturbations must be a whole number from 1 to 20, not 0'),
    ({'max_perturbations': 21}, 'max_perturbations must be a whole number from 1 to 20, not 21'),
    ({'out': Path('/proc/nowhere')}, '/proc/nowhere cannot be written to')])
def test_settings_that_cannot_be_used(tmp_path, wrong, sentence):
    asked = settings(**{'out': tmp_path} | wrong)
    with pytest.raises(UserError, match=sentence):
        check_settings(asked)
    with pytest.raises(UserError, match=sentence):
        a_diagnosis(asked, CoinRunner())
    assert not list(tmp_path.iterdir())


def test_check_of_settings_leaves_nothing_but_the_directory(tmp_path):
    check_settings(settings(tmp_path / 'a' / 'b'))
    assert not list((tmp_path / 'a' / 'b').iterdir())


def test_tasks_must_agree(tmp_path):
    with pytest.raises(UserError, match='catalogue is for the task lift, not for stack'):
        a_diagnosis(settings(tmp_path, task='stack'), CoinRunner())


@pytest.mark.parametrize('searcher', ['sweep', 'ppo'])
@pytest.mark.parametrize('parallel', [1, 2])
def test_progress_counts_every_rollout_once(tmp_path, searcher, parallel):
    seen: list[Progress] = []
    asked = settings(tmp_path, searcher=searcher)
    found = a_diagnosis(asked, CoinRunner(parallel), on_progress=seen.append)
    assert [progress.done for progress in seen] == list(range(41))
    assert {progress.asked for progress in seen} == {40}
    for progress in seen:
        rows = [progress.map.nominal, *progress.map.perturbations, *progress.map.conditions]
        assert sum(row.n for row in rows) == progress.done
        assert sum(row.failures for row in rows) == progress.failures
    assert found.budget['done'] == 40


def test_map_is_written_on_the_way(tmp_path):
    written = []

    def on_progress(progress):
        if progress.done == 39:
            written.append(read_map(tmp_path).budget['done'])

    a_diagnosis(settings(tmp_path), CoinRunner(), on_progress=on_progress)
    assert written == [20]


@pytest.mark.parametrize('searcher', ['sweep', 'ppo'])
@pytest.mark.parametrize('parallel', [1, 3])
def test_canceled_and_taken_up_again(tmp_path, searcher, parallel):
    asked = settings(tmp_path / 'run', searcher=searcher)
    runner = CoinRunner(parallel)
    with pytest.raises(DiagnosisCanceled, match='the same command goes on'):
        a_diagnosis(asked, runner, should_stop=lambda: len(runner.ran) >= 17)
    assert 17 <= read_map(asked.out).budget['done'] == len(runner.ran) < 17 + 2 * parallel
    rest = CoinRunner(parallel)
    found = a_diagnosis(asked, rest)
    assert not set(runner.ran) & set(rest.ran) and len(runner.ran) + len(rest.ran) == 40
    whole = a_diagnosis(settings(tmp_path / 'whole', searcher=searcher), CoinRunner(parallel))
    assert (found.nominal, found.perturbations) == (whole.nominal, whole.perturbations)
    assert found.conditions == whole.conditions


def test_complete_ledger_is_answered_at_once(tmp_path):
    found = a_diagnosis(settings(tmp_path), CoinRunner())

    def never(request):
        raise AssertionError('run')

    assert a_diagnosis(settings(tmp_path), CoinRunner(before=never)) == found
    for damage in (Path.unlink, lambda path: path.write_text('{}')):
        damage(tmp_path / 'failure_map.json')
        again = a_diagnosis(settings(tmp_path), CoinRunner(before=never))
        assert again.perturbations == found.perturbations == read_map(tmp_path).perturbations


def test_larger_budget_goes_on(tmp_path):
    a_diagnosis(settings(tmp_path), CoinRunner())
    runner = CoinRunner()
    found = a_diagnosis(settings(tmp_path, rollouts=60), runner)
    assert len(runner.ran) == 20 and found.budget['asked'] == found.budget['done'] == 60
    with pytest.raises(OtherRunError, match='60 rollouts, more than 40'):
        a_diagnosis(settings(tmp_path), runner)


@pytest.mark.parametrize('searcher, refused', [('ppo', True), ('sweep', False)])
def test_number_of_executors_matters_to_ppo_alone(tmp_path, searcher, refused):
    runner = CoinRunner(1)
    with pytest.raises(DiagnosisCanceled):
        a_diagnosis(settings(tmp_path, searcher=searcher), runner,
                    should_stop=lambda: len(runner.ran) >= 5)
    if refused:
        with pytest.raises(OtherRunError, match=r'another number of executors \(1, now 2\)'):
            a_diagnosis(settings(tmp_path, searcher=searcher), CoinRunner(2))
    else:
        found = a_diagnosis(settings(tmp_path, searcher=searcher), CoinRunner(2))
        assert found.budget['done'] == 40


@pytest.mark.parametrize('searcher, refused', [('ppo', True), ('sweep', False)])
@pytest.mark.parametrize('changed', [{'reward': 'flat'}, {'max_perturbations': 2}])
def test_reward_and_episodes_matter_to_ppo_alone(tmp_path, searcher, refused, changed):
    runner = CoinRunner()
    with pytest.raises(DiagnosisCanceled):
        a_diagnosis(settings(tmp_path, searcher=searcher), runner,
                    should_stop=lambda: len(runner.ran) >= 5)
    asked = settings(tmp_path, searcher=searcher, **changed)
    if refused:
        with pytest.raises(OtherRunError, match=next(iter(changed))):
            a_diagnosis(asked, CoinRunner())
    else:
        found = a_diagnosis(asked, CoinRunner())
        assert found.budget['done'] == 40 and changed.items() <= found.settings.items()


@pytest.mark.parametrize('error', [RunnerError('nobody answers.'), KeyboardInterrupt()])
@pytest.mark.parametrize('parallel', [1, 2])
@pytest.mark.parametrize('searcher', ['sweep', 'ppo'])
def test_map_is_written_when_a_runner_gives_up(tmp_path, error, parallel, searcher):
    def before(request):
        if len(runner.ran) >= 9:
            raise error

    runner = CoinRunner(parallel, before)
    with pytest.raises(type(error)):
        a_diagnosis(settings(tmp_path, searcher=searcher), runner)
    assert 9 <= read_map(tmp_path).budget['done'] == len(runner.ran) < 12


def test_policy_that_cannot_be_used_stops_the_diagnosis(tmp_path):
    class Broken(CoinRunner):

        def outcome(self, request, failed):
            return Outcome('invalid', 'policy_returned_nan')

    for searcher in ('sweep', 'ppo'):
        with pytest.raises(PolicyUnusable, match='policy_returned_nan'):
            a_diagnosis(settings(tmp_path / searcher, searcher=searcher), Broken())
        found = read_map(tmp_path / searcher)
        assert found.budget['done'] == found.budget['invalid'] == 3
        assert found.invalid_reasons == {'policy_returned_nan': 3}


def test_second_diagnosis_of_one_directory_is_refused(tmp_path):
    def on_progress(progress):
        if progress.done == 3:
            with pytest.raises(LedgerError, match='in use by another diagnosis'):
                a_diagnosis(settings(tmp_path), CoinRunner())

    assert a_diagnosis(settings(tmp_path), CoinRunner(), on_progress=on_progress)


def test_catalogue_of_the_package(tmp_path):
    lift = load_catalogue(LIFT)
    found = a_diagnosis(settings(tmp_path, rollouts=2 * 22), CoinRunner(2), catalogue=lift)
    rows = {row.name: (row.n, row.slot, row.value, row.sentence) for row in found.perturbations}
    assert rows == {p.name: (2, p.slot, p.value, p.sentence) for p in lift}
    assert read_map(tmp_path) == found


def sweep_until_killed(out: Path, log: Path) -> None:
    """Run a diagnosis."""
    a_diagnosis(settings(out, rollouts=105), CoinRunner(2, log=log, seconds=0.005))


def test_diagnosis_killed_again_and_again(tmp_path):
    log = tmp_path / 'log'
    kills = len(list(killed_at_random(sweep_until_killed, tmp_path, log, 5, 0.1)))
    runs = Counter(log.read_text().split())
    assert 5 <= len(runs) < 105
    sweep_until_killed(tmp_path, log)
    runs = Counter(log.read_text().split())
    assert len(runs) == 105 and runs.total() <= 105 + kills  # one was running at each kill
    found = read_map(tmp_path)
    whole = a_diagnosis(settings(tmp_path / 'whole', rollouts=105), CoinRunner())
    assert (found.nominal, found.perturbations) == (whole.nominal, whole.perturbations)
    assert found.budget == whole.budget == {'asked': 105, 'done': 105, 'invalid': 0}
