# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A whole diagnosis."""

from collections import Counter
from pathlib import Path

from coin_runner import a_diagnosis, CoinRunner, killed_at_random, read_map, settings
import pytest
from robomd_ros.conditions import load_catalogue
from robomd_ros.diagnosis.run import check_settings, Progress
from robomd_ros.diagnosis.watching import DiagnosisCanceled
from robomd_ros.errors import UserError
from robomd_ros.rollouts import LedgerError, OtherRunError, PolicyUnusable
from robomd_ros.rollouts.protocol import RunnerError
from robomd_ros.worlds.protocol import Outcome

LIFT = Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml'


@pytest.mark.parametrize('wrong, sentence', [
    ({'searcher': 'magic'}, "Unknown searcher 'magic'; choose one of ppo, a2c, sweep"),
    ({'rollouts': 0}, 'rollouts must be a whole number from 1 to 1000000, not 0'),
    ({'rollouts': -5}, 'rollouts must be a whole number from 1 to 1000000, not -5'),
    ({'rollouts': 2**31}, 'rollouts must be a whole number from 1 to 1000000, not 2147483648'),
    ({'rollouts': 2, 'searcher': 'ppo'}, '2 rollouts, 1 of them of the nominal scene, are too'),
    ({'control_share': -0.1}, 'control_share must be a number from 0 to 0.9, not -0.1'),
    ({'confirm_share': 1.0}, 'confirm_share must be a number from 0 to 0.9, not 1.0'),
    ({'confirm_share': float('nan')}, 'confirm_share must be a number from 0 to 0.9, not nan'),
    ({'stop': 'early'}, "Unknown stop 'early'; choose one of budget, settled"),
    ({'settle_top': 0}, 'settle_top must be a whole number from 1 to 1000, not 0'),
    ({'settle_within': 2.0}, 'settle_within must be a number from 0 to 1, not 2.0'),
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
        assert progress.read_map().perturbations == found.perturbations
    assert seen[-1].failures == sum(
        row.failures + (row.discovery.failures if row.source == 'confirmation' and row.discovery
                        else 0)
        for row in (found.nominal, *found.perturbations, *found.conditions))
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


@pytest.mark.parametrize('searcher', ['sweep', 'thompson'])
def test_larger_budget_goes_on_until_verdicts_are_on_the_way(tmp_path, searcher):
    asked = {'searcher': searcher, 'confirm_share': 0.5, 'control_share': 0.0}
    runner = CoinRunner()
    with pytest.raises(DiagnosisCanceled):
        a_diagnosis(settings(tmp_path, **asked), runner, should_stop=lambda: len(runner.ran) > 14)
    rest = CoinRunner()
    found = a_diagnosis(settings(tmp_path, rollouts=60, **asked), rest)
    assert len(runner.ran) + len(rest.ran) == 60
    assert found.budget['asked'] == found.budget['done'] == 60
    with pytest.raises(OtherRunError, match='60 rollouts, more than 40'):
        a_diagnosis(settings(tmp_path, **asked), runner)
    with pytest.raises(OtherRunError, match='60 rollouts whose verdicts are known or on the way'):
        a_diagnosis(settings(tmp_path, rollouts=80, **asked), runner)
    assert a_diagnosis(settings(tmp_path, rollouts=60, **asked), runner) == found


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
    found = a_diagnosis(settings(tmp_path, rollouts=20 + 2 * 21), CoinRunner(2), catalogue=lift)
    rows = {row.name: (row.n, row.slot, row.value, row.sentence) for row in found.perturbations}
    assert rows == {p.name: (2, p.slot, p.value, p.sentence) for p in lift}
    assert read_map(tmp_path) == found


@pytest.mark.parametrize('searcher', ['sweep', 'ppo'])
def test_diagnosis_ends_when_the_ranking_asked_for_is_settled(tmp_path, searcher):
    asked = settings(tmp_path, searcher=searcher, rollouts=1500, stop='settled', settle_top=2,
                     settle_within=0.3, confirm_share=0.1, max_perturbations=1)
    found = a_diagnosis(asked, CoinRunner())
    assert found.stopped.startswith('The 2 that fail most are settled, to within 30 points')
    assert found.budget['done'] < 1200
    assert {row.name for row in found.perturbations[:2]} == {'green_table', 'red_table'}
    assert {row.name for row in found.perturbations if row.source == 'confirmation'} >= {
        'green_table', 'red_table'}

    def never(request):
        raise AssertionError('run')

    assert a_diagnosis(asked, CoinRunner(before=never)) == found


@pytest.mark.parametrize('others, control, confirm', [
    ({'rollouts': 500}, 50, 0), ({'rollouts': 500, 'stop': 'settled'}, 30, 200),
    ({'rollouts': 500, 'searcher': 'ppo'}, 30, 200),
    ({'rollouts': 500, 'searcher': 'ppo', 'confirm_share': 0.0}, 50, 0),
    ({'rollouts': 100}, 20, 0), ({'rollouts': 30}, 15, 0), ({'rollouts': 1}, 1, 0),
    ({'rollouts': 500, 'control_share': 0.0}, 20, 0),
    ({'rollouts': 500, 'control_share': 0.5}, 250, 0)])
def test_shares_of_the_budget(tmp_path, others, control, confirm):
    asked = settings(tmp_path, **others)
    assert (asked.control, asked.confirm) == (control, confirm)


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
