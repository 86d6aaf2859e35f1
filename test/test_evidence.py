# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From the ledger to the failure map: what is counted, compared and ranked."""

from collections import Counter
from contextlib import closing
import json
import sqlite3

from coin_runner import a_diagnosis, CATALOGUE, CoinRunner, failure_rate, read_map, settings
import numpy as np
import pytest
from robomd_ros.conditions import Condition
from robomd_ros.diagnosis import confirmation
from robomd_ros.diagnosis.evidence import Evidence
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.statistics import confidence_sequence, wilson
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import End
from robomd_ros.worlds.protocol import Outcome


def test_map_counts_rollouts_of_a_perturbation_alone(tmp_path):
    found = a_diagnosis(settings(tmp_path, rollouts=7 * 60), CoinRunner(2))
    rows = {row.name: row for row in found.perturbations}
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as ledger:
        for name, row in rows.items():
            failures, = ledger.execute('SELECT count(*) FROM rollouts WHERE condition = ? AND '
                                       "verdict = 'failure'", [json.dumps([name])]).fetchone()
            assert (row.n, row.failures, row.failure_rate) == (63, failures, failures / 63)
            assert row.interval == wilson(failures, 63) and row.search_mass is None
            assert row.anytime == confidence_sequence(failures, 63)
            assert (row.source, row.discovery) == ('confirmation', None)
            true = failure_rate(Condition((CATALOGUE[name],)))
            assert abs(row.failure_rate - true) < 3.5 * np.sqrt(true * (1 - true) / 63) + 1e-9
    assert [row.name for row in found.perturbations[:2]] == ['green_table', 'red_table']
    assert [row.rank for row in found.perturbations] == [1, 2, 3, 4, 5, 6]
    assert (found.nominal.n, found.nominal.rank, found.nominal.slot) == (42, None, '')
    assert found.budget == {'asked': 420, 'done': 420, 'invalid': 0}


def test_stacked_conditions_have_their_own_table(tmp_path):
    found = a_diagnosis(
        settings(tmp_path, searcher='ppo', rollouts=60, confirm_share=0), CoinRunner())
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as ledger:
        tried = Counter(condition for condition, in ledger.execute(
            "SELECT condition FROM rollouts WHERE verdict != 'invalid'"))
    assert {json.dumps(row.perturbations): row.n for row in found.conditions} == {
        condition: n for condition, n in tried.items() if len(json.loads(condition)) > 1}
    assert found.conditions
    for row in found.perturbations:
        assert row.n == tried[json.dumps([row.name])]
    assert found.nominal.n == tried['[]'] == 20
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

    found = a_diagnosis(settings(tmp_path, rollouts=20 + 6 * 5), Rigged())
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

    found = a_diagnosis(settings(tmp_path, rollouts=20 + 6 * 20), Uneven())
    rates = [(row.name, row.failure_rate) for row in found.perturbations[:2]]
    assert rates == [('blue_cube', 0.95), ('red_cube', 1.0)]


def test_file_says_what_the_map_says(tmp_path):
    found = a_diagnosis(settings(tmp_path, searcher='ppo', rollouts=30), CoinRunner())
    assert read_map(tmp_path) == found
    content = json.loads((tmp_path / 'failure_map.json').read_text())
    assert (content['format'], content['version']) == ('robomd_ros/failure_map', 2)
    assert content['settings'] == {
        'task': 'lift', 'policy': 'builtin:lift', 'policy_digest': 'b' * 64,
        'catalogue': '/catalogue.yaml', 'catalogue_digest': 'a' * 64, 'searcher': 'ppo',
        'rollouts': 30, 'seed': 0, 'control_share': 0.1, 'confirm_share': 0.4, 'stop': 'budget',
        'settle_top': 5, 'settle_within': 0.2, 'reward': 'paper', 'max_perturbations': 5,
        'horizon': 100, 'parallel': 1, 'world': 'mujoco',
        'model_digest': 'c' * 64, 'fidelity': 'fast', 'renderer': 'egl'}
    assert set(content['nominal']) == {
        'name', 'sentence', 'n', 'failures', 'failure_rate', 'interval', 'anytime', 'source',
        'invalid', 'discovery'}
    assert set(content['perturbations'][0]) == {
        *content['nominal'], 'slot', 'value', 'versus_nominal', 'verdict', 'suspicion',
        'search_mass', 'estimate', 'rank'}
    assert set(content['conditions'][0]) == {
        'perturbations', 'n', 'failures', 'failure_rate', 'interval', 'anytime', 'source',
        'invalid', 'discovery'}
    assert content['stopped'] == 'All rollouts that were asked for are done.'
    assert content['versions'] == {'robomd_ros': '0.1.0'}
    assert content['command'] == 'robomd diagnose'


@pytest.mark.parametrize('text', [
    '', '[]', '{}', '{"format": "robomd_ros/failure_map", "version": 3}',
    '{"format": "robomd_ros/failure_map", "version": 2, "nominal": {}}'])
def test_what_is_no_map(text):
    with pytest.raises(UserError, match='not a failure map'):
        FailureMap.from_json(text)


# Discovery and confirmation.

def test_final_rates_are_of_confirmation_and_discovery_stands_apart(tmp_path):
    found = a_diagnosis(settings(tmp_path, searcher='ppo', rollouts=400), CoinRunner(2))
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as ledger:
        rollouts = ledger.execute(
            'SELECT condition, purpose, trial, probability, verdict FROM rollouts').fetchall()
    purposes = Counter(purpose for _, purpose, *_ in rollouts)
    assert purposes == {'control': 24, 'discovery': 216, 'confirmation': 160}
    for condition, purpose, trial, probability, _ in rollouts:
        assert (trial >= confirmation.FIRST_TRIAL) == (purpose == 'confirmation')
        assert (probability is not None) == (purpose == 'discovery')
        assert (condition == '[]') or purpose != 'control'
    rows = {row.name: row for row in found.perturbations}
    for name, row in rows.items():
        counts = {purpose: Counter(verdict for condition, kind, *_, verdict in rollouts
                                   if condition == json.dumps([name]) and kind == purpose)
                  for purpose in ('discovery', 'confirmation')}
        n = counts[row.source].total()
        assert (row.n, row.failures) == (n, counts[row.source]['failure'])
        assert row.discovery.n == counts['discovery'].total()
        assert row.discovery.interval == confidence_sequence(row.discovery.failures,
                                                             row.discovery.n)
        if row.source == 'discovery':
            assert not counts['confirmation'] and row.interval == row.discovery.interval
            assert (row.versus_nominal, row.verdict) == (None, 'not shown')
    assert {name for name, row in rows.items() if row.source == 'confirmation'} >= {
        'green_table', 'red_table'}
    assert [row.name for row in found.failure_modes] == ['green_table', 'red_table']


def test_pairs_are_of_the_same_trials(tmp_path):
    found = a_diagnosis(settings(tmp_path, rollouts=420), CoinRunner())
    row = next(row for row in found.perturbations if row.name == 'green_table')
    versus = row.versus_nominal
    assert versus.pairs == 42  # as many as there are control rollouts
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as ledger:
        both, = ledger.execute(
            'SELECT count(*) FROM rollouts a JOIN rollouts b USING (trial) WHERE a.condition = ? '
            "AND b.condition = ? AND a.verdict = 'success' AND b.verdict = 'failure'",
            ('[]', '["green_table"]')).fetchone()
    assert (versus.more, versus.less) == (both, 0)
    assert versus.p == pytest.approx(2 * 0.5**both) and versus.p_holm >= versus.p
    assert row.verdict == 'failure mode'


def test_no_fixed_rollouts_no_verdict(tmp_path):
    found = a_diagnosis(
        settings(tmp_path, searcher='ppo', rollouts=200, confirm_share=0), CoinRunner())
    assert {row.source for row in found.perturbations} == {'discovery'}
    assert not found.failure_modes and found.nominal.source == 'confirmation'


def ends(names, purpose, failures, n):
    """Return how n rollouts ended, the first ones with a failure."""
    return [End(names, purpose, trial, 'failure' if trial < failures else 'success', '')
            for trial in range(n)]


def test_suspects_are_those_thought_to_fail_more_often_than_nominal():
    names = CATALOGUE.names
    found = Evidence([
        *ends((), 'control', 1, 20), *ends((names[0],), 'discovery', 5, 6),
        *ends((names[1],), 'discovery', 0, 9), *ends((names[2],), 'discovery', 2, 4),
        *ends((names[3], names[4]), 'discovery', 9, 9)])
    assert confirmation.suspects(found, CATALOGUE, None, 100) == [names[0], names[2]]
    assert confirmation.suspects(found, CATALOGUE, None, 29) == [names[0]]
    estimate = [0.0, 0.0, 0.0, 0.0, 0.0, 0.9]
    assert confirmation.suspects(found, CATALOGUE, estimate, 100) == [names[5]]
    assert sorted(confirmation.suspects(found, CATALOGUE, [0.0] * 6, 100)) == sorted(names)


def test_confirmation_is_spent_evenly_on_fresh_trials():
    asked = list(confirmation.requests(CATALOGUE, CATALOGUE.names[:2], 3, 10))
    assert [r.condition.label for r in asked] == [
        'nominal', *CATALOGUE.names[:2]] * 3 + ['nominal']
    assert [r.trial - confirmation.FIRST_TRIAL for r in asked] == [
        0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert {r.purpose for r in asked} == {'confirmation'} and len({r.key for r in asked}) == 10
