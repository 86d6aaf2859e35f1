# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searchers random, thompson, successive_halving and gp."""

from collections import Counter
from contextlib import closing
from importlib import import_module
from itertools import cycle
import json
from pathlib import Path
import sqlite3

from biased_runner import Biased, tally
from coin_runner import (
    a_diagnosis,
    a_search,
    CATALOGUE,
    CoinRunner,
    failure_rate,
    killed_at_random,
    settings,
)
import numpy as np
import pytest
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL
from robomd_ros.diagnosis import halving, thompson, uniform
from robomd_ros.diagnosis.batches import run_batches, SIZE, standardize
from robomd_ros.diagnosis.run import SEARCHERS
from robomd_ros.diagnosis.watching import DiagnosisCanceled
from robomd_ros.worlds.protocol import Outcome

LIFT = load_catalogue(Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml')
CHOOSERS = ['random', 'thompson', 'successive_halving', 'gp']
ADAPTIVE = CHOOSERS[1:]


def rows(out):
    """Return what the ledger has of every rollout, by key."""
    with closing(sqlite3.connect(out / 'ledger.sqlite')) as ledger:
        return {key: others for key, *others in ledger.execute(
            'SELECT key, condition, trial, purpose, probability, verdict FROM rollouts')}


# What is true of them all.

@pytest.mark.parametrize('searcher', CHOOSERS)
@pytest.mark.parametrize('rollouts', [1, 7, 46, 131])
def test_budget_is_spent_on_what_the_ledger_says(tmp_path, searcher, rollouts):
    asked = settings(tmp_path, searcher=searcher, rollouts=rollouts, confirm_share=0)
    a_diagnosis(asked, CoinRunner(2))
    found = rows(tmp_path)
    kinds = Counter(key.partition('/')[0] for key in found)
    assert kinds.total() == rollouts and kinds['control'] == asked.control
    assert {key for key in found if not key.startswith('control')} == {
        f'{searcher}/{number}' for number in range(rollouts - asked.control)}
    trials = {}
    for condition, trial, purpose, probability, _ in found.values():
        trials.setdefault(condition, []).append(trial)
        if condition == '[]':
            assert (purpose, probability) == ('control', None)
        else:
            assert len(json.loads(condition)) == 1 and 0 < probability <= 1
            assert purpose == ('confirmation' if searcher == 'random' else 'discovery')
    if searcher != 'random':  # whose rollouts are compared with nominal's
        trials = {'control': trials.pop('[]'),  # and the first ones are the suspicion's
                  'search': [trial - 4 for trial in sum(trials.values(), [])]}
    assert all(sorted(each) == list(range(len(each))) for each in trials.values())


@pytest.mark.parametrize('searcher', CHOOSERS)
def test_what_is_chosen_depends_on_the_seed_alone(tmp_path, searcher):
    def run(name, parallel, seed):
        asked = settings(tmp_path / name, searcher=searcher, rollouts=70, seed=seed)
        found = a_diagnosis(asked, CoinRunner(parallel))
        return rows(asked.out), [(row.name, row.estimate) for row in found.perturbations]

    one, three, other = run('one', 1, 0), run('three', 3, 0), run('other', 1, 1)
    assert one == three
    assert one[0] != other[0]


@pytest.mark.parametrize('searcher', CHOOSERS)
def test_taken_up_again_and_again(tmp_path, searcher):
    asked = settings(tmp_path / 'parts', searcher=searcher, rollouts=60)
    for limit in (1, 2, 9, 8, 13):
        runner = CoinRunner()
        with pytest.raises(DiagnosisCanceled):
            a_diagnosis(asked, runner, should_stop=lambda r=runner, n=limit: len(r.ran) >= n)
    found = a_diagnosis(asked, CoinRunner())
    whole = a_diagnosis(settings(tmp_path / 'whole', searcher=searcher, rollouts=60), CoinRunner())
    assert rows(tmp_path / 'parts') == rows(tmp_path / 'whole')
    assert found.perturbations == whole.perturbations and found.nominal == whole.nominal


def think_until_killed(out: Path, log: Path) -> None:
    """Run a diagnosis."""
    asked = settings(out, searcher='thompson', rollouts=80)
    a_diagnosis(asked, CoinRunner(2, log=log, seconds=0.01))


def test_killed_again_and_again(tmp_path):
    log = tmp_path / 'log'
    assert len(list(killed_at_random(think_until_killed, tmp_path / 'run', log, 3, 0.1))) == 3
    think_until_killed(tmp_path / 'run', log)
    whole = settings(tmp_path / 'whole', searcher='thompson', rollouts=80)
    a_diagnosis(whole, CoinRunner())
    assert rows(tmp_path / 'run') == rows(tmp_path / 'whole')


@pytest.mark.parametrize('searcher', ['thompson', 'gp'])  # whose rates are no final ones
def test_larger_budget_goes_on(tmp_path, searcher):
    for rollouts in (30, 61):
        asked = settings(tmp_path / 'more', searcher=searcher, rollouts=rollouts, confirm_share=0,
                         control_share=0.5)
        a_diagnosis(asked, CoinRunner())
    a_diagnosis(settings(tmp_path / 'once', searcher=searcher, rollouts=61, confirm_share=0,
                         control_share=0.5), CoinRunner())
    assert rows(tmp_path / 'more') == rows(tmp_path / 'once')


def test_larger_budget_plans_the_halving_anew(tmp_path):
    for rollouts in (31, 44, 45, 79, 200):
        runner = CoinRunner()
        found = a_diagnosis(settings(tmp_path, searcher='successive_halving', rollouts=rollouts,
                                     confirm_share=0), runner)
        assert found.budget['done'] == len(rows(tmp_path)) == rollouts
    assert len(runner.ran) == 200 - 79
    assert max(found.perturbations, key=lambda row: row.n).name in ('green_table', 'red_table')


@pytest.mark.parametrize('searcher', CHOOSERS)
def test_perturbation_that_cannot_be_judged_is_no_trap(tmp_path, searcher):
    class Unjudged(CoinRunner):

        def outcome(self, request, failed):
            if 'red_table' in request.condition.names:
                return Outcome('invalid', 'solved_at_reset')
            return super().outcome(request, failed)

    asked = settings(tmp_path, searcher=searcher, rollouts=100, confirm_share=0)
    found = a_diagnosis(asked, Unjudged())
    row, = (row for row in found.perturbations if row.name == 'red_table')
    assert (row.n, row.failure_rate, found.budget['done']) == (0, None, 100)
    assert row.invalid == found.budget['invalid'] > 0
    if searcher != 'random':  # which does not look
        assert row.invalid <= (80 // 3 if searcher == 'successive_halving' else 2 + SIZE)


@pytest.mark.parametrize('searcher', CHOOSERS)
def test_budget_is_spent_though_nothing_can_be_judged(tmp_path, searcher):
    class Unjudged(CoinRunner):

        def outcome(self, request, failed):
            return Outcome('invalid', 'solved_at_reset')

    found = a_diagnosis(settings(tmp_path, searcher=searcher, confirm_share=0), Unjudged())
    assert found.budget == {'asked': 40, 'done': 40, 'invalid': 40}


@pytest.mark.parametrize('searcher', CHOOSERS)
def test_ends_between_batches_when_settled(searcher):
    answers = iter([False, False, False, True])
    runner = Biased(dict.fromkeys(CATALOGUE.names, 0.5))
    import_module(f'robomd_ros.diagnosis.{SEARCHERS[searcher].module}').search(
        a_search(runner, 100, 10, settled=lambda: next(answers)))
    batch = len(CATALOGUE) if searcher == 'successive_halving' else SIZE
    assert len([name for name in runner.tried if name != 'nominal']) == 3 * batch


@pytest.mark.parametrize('searcher', ADAPTIVE)
def test_control_rollouts_are_spread_evenly(searcher):
    runner = Biased(dict.fromkeys(CATALOGUE.names, 0.5))
    import_module(f'robomd_ros.diagnosis.{SEARCHERS[searcher].module}').search(
        a_search(runner, 120, 30))
    for place in range(1, 121):
        assert abs(runner.tried[:place].count('nominal') - place / 4) <= 1


# Batches.

def test_ended_batches_are_not_thought_over_again():
    done = {f'a/{number}': (CATALOGUE.names[number % 3],) for number in range(6)}
    seen, asked = [], []

    def choose(history):
        seen.append(history[-1])
        return [(5, 1.0), (5, 0.5)]

    def settled():
        asked.append(len(seen))
        return len(seen) == 2

    requests = []
    search = a_search(
        CoinRunner(before=requests.append), 30, 3, recorded=done.get, settled=settled)
    history = run_batches(search, 'a', choose, cycle([2]))
    assert seen[0].asked.tolist() == [2, 2, 2, 0, 0, 0]  # and not 0, nor were these chosen
    assert [each.asked[5] for each in history] == [0, 0, 0, 0, 2, 4]
    assert asked == [0, 1, 2]  # not while there are records
    tried = [r for r in requests if r.condition != NOMINAL]
    assert sorted(r.trial for r in tried if r.condition.names == (CATALOGUE.names[5],)) == [
        10, 11, 12, 13]


def test_batch_that_was_begun_is_finished_whoever_is_settled():
    done = {'a/0': (CATALOGUE.names[1],)}
    runner = Biased(dict.fromkeys(CATALOGUE.names, 0.5))
    search = a_search(runner, 30, 3, recorded=done.get, settled=lambda: True)
    history = run_batches(search, 'a', lambda history: [(1, 1.0), (2, 1.0)], [2] * 9)
    assert history[-1].asked.tolist() == [0, 1, 1, 0, 0, 0]


def test_usable():
    assert tally([2, 3, 6, 9], valid=[0, 0, 1, 3]).usable.tolist() == [True, False, True, True]
    assert tally([3, 7], valid=[0, 1]).usable.tolist() == [True, True]  # rather than none


def test_standardize_says_the_same_of_fast_and_slow_policies():
    deviations = np.array([0.2, 0.4, 0.8, 1.6])
    assert standardize(deviations) == pytest.approx(standardize(deviations / 4), abs=0.1)
    assert standardize([0.3] * 4).tolist() == [0] * 4
    assert np.abs(standardize([0.3, 0.3, 0.31, 0.3])).max() < 0.1


def test_standardize_takes_what_is_not_known_for_the_mean():
    first, unknown, second = standardize([0.2, np.nan, 0.8])
    assert unknown == 0
    assert [first, second] == pytest.approx(standardize([0.2, 0.8]))
    assert standardize([np.nan] * 3).tolist() == [0] * 3


# random.

def test_random_is_uniform_and_does_not_look():
    first, second = (Biased(dict.fromkeys(CATALOGUE.names, rate)) for rate in (0.0, 1.0))
    for runner in (first, second):
        uniform.search(a_search(runner, 1260, 60))
    assert first.tried == second.tried
    assert all(160 < first.tried.count(name) < 240 for name in CATALOGUE.names)


# thompson.

def test_thompson_comes_back_to_the_worst(tmp_path):
    a_diagnosis(settings(tmp_path, searcher='thompson', rollouts=220, confirm_share=0),
                CoinRunner())
    tried = [condition for key, (condition, *_) in rows(tmp_path).items() if condition != '[]']
    shares = Counter(tried[-100:])
    assert shares['["green_table"]'] > 70 and shares['["red_table"]'] < 30


def test_thompson_probability_is_that_of_the_choice():
    # Then, whatever was chosen before, 1 / probability is 1 on average over each perturbation.
    requests = []
    for seed in range(30):
        thompson.search(a_search(CoinRunner(before=requests.append), 60, 20, seed=seed))
    chosen = np.array([request.probability for request in requests
                       if request.condition.label == 'green_table'])
    assert chosen.min() < 0.5 and chosen.max() > 0.8
    assert abs((1 / chosen).sum() - 30 * 40) < 3 * np.sqrt((1 / chosen**2 - 1 / chosen).sum())


def test_shares_of_the_worst():
    counts = np.array([[1.0, 1, 30, 1], [1, 1, 1, 1]])
    generator = np.random.default_rng(0)
    shares = thompson.worst_shares(counts, np.array([True, True, True, False]), generator)
    assert shares.sum() == pytest.approx(1) and shares[3] == 0
    assert shares[2] > 0.85 and shares[0] == pytest.approx(shares[1], abs=0.03)


def test_thompson_prior_is_worth_three_rollouts():
    prior = thompson.prior_counts(np.array([-3.0, 0.0, 3.0]))
    assert prior.sum(0) == pytest.approx(3)
    means = prior[0] / prior.sum(0)
    assert means[0] < 0.25 < means[1] == 0.5 < 0.75 < means[2]
    after = thompson.posterior(prior, tally([5, 9, 8], [0, 3, 8], [4, 9, 8]))
    assert (after - prior).tolist() == [[0, 3, 8], [4, 6, 0]]


# successive_halving.

@pytest.mark.parametrize('perturbations, budget', [(1, 5), (2, 7), (6, 60), (21, 378), (21, 30)])
def test_rounds_of_halving(perturbations, budget):
    rounds = halving.plan(perturbations, budget)
    assert len(rounds) == max(1, int(np.ceil(np.log2(perturbations))))
    assert [size for size, _ in rounds][0] == perturbations
    assert all(later == -(-earlier // 2)
               for (earlier, _), (later, _) in zip(rounds, rounds[1:], strict=False))
    share = budget / len(rounds)
    for size, batches in rounds:
        assert batches == max(1, int(share // size))


def test_halving_keeps_the_half_that_fails_more():
    rates = dict(zip(LIFT.names, np.random.default_rng(4).permutation(21) / 20, strict=True))
    runner = Biased(rates)
    halving.search(a_search(runner, 420, 42, catalogue=LIFT))
    tried = Counter(runner.tried)
    assert tried.total() == 420 and tried.pop('nominal') == 42
    # 21 for 3 rollouts each, then 11 for 6, 6 for 12, 3 for 25, and 2 for what is left.
    assert sorted(tried.values())[:18] == [3] * 10 + [9] * 5 + [21] * 3
    assert sorted(tried.values())[18:20] == [46, 97] and max(tried.values()) == 97
    last = [name for name, _ in tried.most_common(3)]
    assert max(rates, key=rates.get) in last and all(rates[name] > 0.7 for name in last)


def test_worst():
    found = tally([4, 4, 4, 4, 4], [4, 0, 2, 0, 2], [4, 4, 4, 0, 4])
    assert halving.worst(range(5), found, 3) == [0, 2, 4]
    assert halving.worst(range(5), found, 2) == [0, 2]
    assert halving.worst([1, 3], found, 1) == [1]  # 3 was never judged


# gp; more in test_gaussian_process.py.

def test_gp_finds_the_failing_ones(tmp_path):
    found = a_diagnosis(settings(tmp_path, searcher='gp', rollouts=100), CoinRunner())
    rows = {row.name: row for row in found.perturbations}
    assert rows['green_table'].estimate > rows['red_table'].estimate > 0.4
    for name, row in rows.items():
        if name not in ('green_table', 'red_table'):
            assert row.estimate < 0.3 > failure_rate(Condition((CATALOGUE[name],)))
