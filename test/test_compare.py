# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Two diagnoses compared: what is paired, what is shown, what is refused."""

from dataclasses import replace
import json

from coin_runner import a_diagnosis, CATALOGUE, CoinRunner, INFO, settings
import cv2
import numpy as np
import pytest
from robomd_ros.cli import main
from robomd_ros.diagnosis.averages import mean_change
from robomd_ros.diagnosis.comparison import compare_diagnoses
from robomd_ros.diagnosis.ppo import PAPER as PPO
from robomd_ros.diagnosis.reading import read_diagnosis
from robomd_ros.diagnosis.statistics import compare, holm
from robomd_ros.errors import UserError
from robomd_ros.reports.comparison import comparison_table, overlay_png, sentence
from robomd_ros.worlds.protocol import Outcome
from scipy.stats import norm


class Mended(CoinRunner):
    """A policy that has been mended: green tables are easy now, and blue cubes are hard."""

    def outcome(self, request, failed):
        if request.condition.label == 'green_table':
            failed = request.trial % 5 == 0
        if request.condition.label == 'blue_cube':
            failed = request.trial % 4 > 0
        return super().outcome(request, failed)


def diagnosed(out, runner=None, **others):
    """Return a diagnosis of its own folder; others: settings, or what a_diagnosis is given."""
    given = {name: others.pop(name) for name in ('catalogue', 'info', 'policy_digest')
             if name in others}
    a_diagnosis(settings(out, **{'rollouts': 200} | others), runner or CoinRunner(), **given)
    return read_diagnosis(out)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Have PPO train little."""
    monkeypatch.setitem(PPO, 'n_epochs', 1)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Return the folders of a sweep before and after."""
    before, after = tmp_path_factory.mktemp('before'), tmp_path_factory.mktemp('after')
    diagnosed(before)
    diagnosed(after, Mended(), policy_digest='d' * 64)
    return before, after


@pytest.fixture(scope='module')
def comparison(folders):
    """Return the comparison of the two."""
    return compare_diagnoses(*map(read_diagnosis, folders))


def test_what_changed_is_shown_and_what_did_not_is_not(comparison):
    verdicts = {change.name: change.verdict for change in comparison.changes}
    assert verdicts == {**dict.fromkeys(CATALOGUE.names, 'not shown'),
                        'green_table': 'better', 'blue_cube': 'worse'}
    assert [change.name for change in comparison.changes[:2]] == ['blue_cube', 'green_table']
    assert comparison.nominal.verdict == 'not shown' and comparison.nominal.paired.pairs == 20


def test_differences_are_of_the_same_trials(folders, comparison):
    a, b = map(read_diagnosis, folders)
    for change in comparison.changes:
        first, second = (each.evidence.fixed((change.name,)) for each in (a, b))
        assert set(first) == set(second) == set(range(30))
        assert change.paired.difference == pytest.approx(
            np.mean([int(second[t]) - int(first[t]) for t in range(30)]))
        assert (change.a.failures, change.b.failures) == (sum(first.values()),
                                                          sum(second.values()))
        assert change.paired.more == sum(second[t] and not first[t] for t in range(30))
    p = [compare(b.evidence.fixed((name,)), a.evidence.fixed((name,))).p
         for name in CATALOGUE.names]
    adjusted = dict(zip(CATALOGUE.names, holm(p), strict=True))
    assert {change.name: change.paired.p_holm for change in comparison.changes} == adjusted


def test_overall_change_is_the_mean_of_the_changes(comparison):
    overall = comparison.overall
    changes = [change.paired.difference for change in comparison.changes]
    assert (overall.perturbations, overall.pairs) == (6, 180)
    assert overall.change == pytest.approx(np.mean(changes)) == pytest.approx(
        overall.b - overall.a)
    assert overall.interval[0] < overall.change < overall.interval[1]


def test_only_what_both_have_is_compared(folders, tmp_path):
    fewer = diagnosed(tmp_path, rollouts=20 + 6 * 10 + 2)  # two perturbations have 11
    found = compare_diagnoses(fewer, read_diagnosis(folders[1]))
    assert sorted(change.paired.pairs for change in found.changes) == [10] * 4 + [11] * 2
    assert found.overall.pairs == 62


def test_invalid_rollouts_have_no_pair(folders, tmp_path):
    class Stops(CoinRunner):

        def outcome(self, request, failed):
            if request.trial == 3 and request.condition.label == 'red_cube':
                return Outcome('invalid', 'solved_at_reset')
            return super().outcome(request, failed)

    found = compare_diagnoses(read_diagnosis(folders[0]), diagnosed(tmp_path, Stops()))
    pairs = {change.name: change.paired.pairs for change in found.changes}
    assert pairs.pop('red_cube') == 29 and set(pairs.values()) == {30}


def test_rollouts_chosen_for_failing_are_not_compared(tmp_path):
    """What both searches confirmed is compared, and nothing else."""
    found = compare_diagnoses(*(
        diagnosed(tmp_path / name, searcher='ppo', rollouts=150) for name in 'ab'))
    told = [change for change in found.changes if change.paired.pairs]
    assert 0 < len(told) < 6 and found.overall.perturbations == len(told)
    assert all(change.paired.difference == 0 for change in told)
    untold = found.changes[len(told):]
    assert {(change.paired.difference, change.verdict, change.a.n) for change in untold} == {
        (None, 'not shown', 0)}
    assert 'no common trial' in comparison_table(found)
    assert overlay_png(found)


@pytest.mark.parametrize('name, others', [
    ('catalogue', {'catalogue': replace(CATALOGUE, digest='e' * 64)}),
    ('seed', {'seed': 1}),
    ('horizon', {'info': INFO}),
    ('world model', {'info': replace(INFO, model_digest='e' * 64)}),
    ('fidelity', {'info': replace(INFO, fidelity='full')})])
def test_others_are_refused_in_one_sentence(folders, tmp_path, name, others):
    runner = CoinRunner()
    if name == 'horizon':
        runner.horizon = 50
    other = diagnosed(tmp_path, runner, rollouts=40, **others)
    with pytest.raises(UserError, match=rf'differ in {name} \(\S+ and \S+\); .*\.$'):
        compare_diagnoses(read_diagnosis(folders[0]), other)


def test_all_that_differs_is_named(folders, tmp_path):
    other = diagnosed(tmp_path, seed=1, info=replace(INFO, fidelity='full'), rollouts=40)
    with pytest.raises(UserError, match=r'seed \(0 and 1\) and fidelity \(fast and full\)'):
        compare_diagnoses(read_diagnosis(folders[0]), other)


def test_no_common_trial_is_refused(folders, tmp_path):
    other = diagnosed(tmp_path, searcher='ppo', rollouts=150)
    with pytest.raises(UserError, match='no confirmation rollouts .* on the same trials'):
        compare_diagnoses(read_diagnosis(folders[0]), other)


def test_interval_of_the_change_covers():
    """Initial states are hard for all perturbations and both policies."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(250):
        first = random.beta(0.5, 1.5, 21)
        second = np.where(np.arange(21) < 4, np.minimum(first + 0.4, 0.99), first)
        hard = np.sqrt(0.3) * random.normal(size=(15, 1)) + np.sqrt(0.3) * random.normal(
            size=(15, 21))
        a, b = (hard + np.sqrt(0.4) * random.normal(size=(15, 21)) < norm.ppf(rates)
                for rates in (first, second))
        change, (low, high) = mean_change([
            (dict(enumerate(b[:, i])), dict(enumerate(a[:, i]))) for i in range(21)])
        assert change == pytest.approx((b.astype(int) - a).mean())
        covered += low <= (second - first).mean() <= high
    assert covered >= 0.93 * 250


def test_without_any_change_there_is_still_doubt():
    same = [({t: t % 3 == 0 for t in range(12)},) * 2] * 4
    change, (low, high) = mean_change(same)
    assert change == 0 and low < -0.01 and high > 0.01


def test_sentence_and_table(comparison):
    assert sentence(comparison).startswith(
        f'B fails {100 * abs(comparison.overall.change):.1f} points')
    assert sentence(comparison).endswith('1 worse, 1 better')
    lines = comparison_table(comparison).splitlines()
    assert max(map(len, lines)) <= 96
    assert sum(line.endswith((' worse', ' better', ' not shown')) for line in lines) == 7


def test_long_names_fit(comparison):
    long = replace(comparison, a={**comparison.a, 'policy': 'robomimic:/' + 'a/path/' * 30},
                   changes=tuple(replace(change, name=change.name * 9)
                                 for change in comparison.changes))
    assert max(map(len, comparison_table(long).splitlines())) <= 96


def colors(png):
    """Return how many pixels have each colour."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    return {tuple(color): number for color, number in zip(*np.unique(
        image.reshape(-1, 3), axis=0, return_counts=True), strict=True)}


@pytest.mark.parametrize('number', [1, 2, 6])
def test_overlay_draws_both(comparison, number):
    drawn = colors(overlay_png(replace(comparison, changes=comparison.changes[:number])))
    assert drawn[0x2d, 0x45, 0xc2] > 50 and drawn[0x99, 0x6a, 0x2b] > 50  # BGR


def test_command_writes_and_prints(folders, tmp_path, capsys):
    assert main(['compare', *map(str, folders), '--out', str(tmp_path / 'out')]) == 0
    content = json.loads((tmp_path / 'out' / 'comparison.json').read_text())
    assert (content['format'], content['version']) == ('robomd_ros/comparison', 1)
    assert content['b']['policy_digest'] == 'd' * 64
    assert content['changes'][0]['verdict'] == 'worse' and len(content['changes']) == 6
    assert colors((tmp_path / 'out' / 'comparison.png').read_bytes())
    assert 'points' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'comparison.json', 'comparison.png']


def test_command_refuses(folders, tmp_path, capsys):
    assert main(['compare', str(folders[0]), str(tmp_path), '--out', str(tmp_path / 'x')]) == 2
    assert main(['compare', *map(str, folders), '--out', '/proc/x']) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert 'failure_map.json' in first and '--out' in second
    assert not (tmp_path / 'x').exists()
