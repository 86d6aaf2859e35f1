# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's measures: known answers, the paper's own numbers, and what a diagnosis says."""

from collections import Counter
from contextlib import closing
import json
import shutil
import sqlite3
import subprocess

from coin_runner import a_diagnosis, CATALOGUE, CoinRunner, read_map, settings
import numpy as np
import pytest
from robomd_ros.cli import main
from robomd_ros.diagnosis.averages import effective_number, mean_rate
from robomd_ros.diagnosis.environment import SearchEnv
from robomd_ros.diagnosis.measures import (
    bootstrap,
    ceiling,
    entropy,
    failure_severity,
    judge,
    modes_by_mass,
    wasserstein_uniform,
)
from robomd_ros.diagnosis.measuring import choices, measures, PAPER, write_measures
from robomd_ros.diagnosis.ppo import PAPER as PPO
from robomd_ros.diagnosis.reading import read_diagnosis
from robomd_ros.diagnosis.statistics import wilson
from robomd_ros.errors import UserError
from robomd_ros.reports.measures import measures_table
from robomd_ros.rollouts.ledger import End, Ledger
from robomd_ros.rollouts.reading import Entry, read_entries
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

N = 21  # perturbations in the paper's catalogue


def rows(out, query, *values):
    """Return what the ledger answers."""
    with closing(sqlite3.connect(out / 'ledger.sqlite')) as database:
        return database.execute(query, values).fetchall()


def by_name(out):
    """Return the measures of the diagnosis in out."""
    return {measure.name: measure for measure in measures(read_diagnosis(out))}


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
    """Return the folder of a sweep."""
    out = tmp_path_factory.mktemp('sweep')
    a_diagnosis(settings(out, rollouts=300), CoinRunner())
    return out


@pytest.fixture(scope='module')
def ppo(tmp_path_factory):
    """Return the folder of a search with PPO."""
    out = tmp_path_factory.mktemp('ppo')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PPO, 'n_epochs', 1)
        a_diagnosis(settings(out, searcher='ppo', rollouts=240), CoinRunner())
    return out


# Pair accuracy.

def test_pair_accuracy_by_hand():
    # Pairs of different perturbations: a fails, b succeeds 2 x 3; b, a 1 x 1; a, c 2 x 4;
    # c, a 0; b, c 1 x 4; c, b 0. Scores say a > b = c.
    found = judge([0.9, 0.5, 0.5], failures=[2, 1, 0], successes=[1, 3, 4]).accuracy
    assert found.pairs == 6 + 1 + 8 + 4 and found.abstained == 0
    assert found.value == (6 + 0 + 8 + 4 / 2) / 19
    assert found.interval is None  # of three perturbations


def test_abstentions_are_counted_and_not_judged():
    found = judge([0.9, 0.5, None], failures=[2, 1, 0], successes=[1, 3, 4]).accuracy
    assert (found.pairs, found.abstained) == (7, 12)
    assert found.value == 6 / 7
    nothing = judge([None, None], [1, 1], [1, 1]).accuracy
    assert (nothing.value, nothing.pairs, nothing.abstained) == (None, 0, 2)


def test_pair_accuracy_is_the_area_under_the_roc_curve():
    random = np.random.default_rng(0)
    scores = random.integers(0, 8, 60) / 8  # with ties
    failed = random.random(60) < 0.4
    single = judge(list(scores), failed.astype(int), 1 - failed).accuracy
    assert single.value == pytest.approx(roc_auc_score(failed, scores))
    # Of several rollouts each, the area takes in pairs within a perturbation, all of them ties.
    n, failures = 9, random.integers(0, 10, 60)
    successes = n - failures
    labels = np.concatenate([[1] * f + [0] * (n - f) for f in failures])
    area = roc_auc_score(labels, np.repeat(scores, n))
    found = judge(list(scores), failures, successes).accuracy
    within = (failures * successes).sum()
    assert found.pairs + within == failures.sum() * successes.sum()
    assert (found.value * found.pairs + within / 2) / (found.pairs + within) == pytest.approx(area)


def test_interval_over_perturbations_covers():
    """Perturbations come from a population; the interval is of the accuracy in all of it."""
    random = np.random.default_rng(1)
    rates = random.beta(0.4, 0.8, 2000)
    scores = rates + random.normal(0, 0.3, 2000)
    weight = np.outer(rates, 1 - rates)
    true = (weight * (scores[:, None] > scores)).sum() / weight.sum()
    covered = 0
    for _ in range(300):
        drawn = random.choice(2000, N, replace=False)
        failures = random.binomial(20, rates[drawn])
        low, high = judge(list(scores[drawn]), failures, 20 - failures).accuracy.interval
        covered += low <= true <= high
    assert covered >= 0.9 * 300


def test_bootstrap_makes_no_pair_of_a_perturbation_with_itself():
    judged = np.ones((8, 8)) - np.eye(8)
    assert bootstrap(judged, judged) == (1, 1)
    assert bootstrap(np.zeros((8, 8)), judged) == (0, 0)
    assert bootstrap(judged[:7, :7], judged[:7, :7]) is None


def true_ceiling(rates):
    """Return the ceiling of known rates, from its definition."""
    right = total = 0
    for i, p in enumerate(rates):
        for j, q in enumerate(rates):
            if i != j:
                total += p * (1 - q)
                right += p * (1 - q) * (1 if p > q else 0.5 if p == q else 0)
    return right / total


def test_ceiling_of_many_rollouts_is_that_of_the_rates():
    rates = np.array([0.05, 0.1, 0.3, 0.5, 0.55, 0.7, 0.9, 0.95, 1.0])
    n = np.full(9, 20_000)
    assert ceiling((rates * n).astype(int), n).value == pytest.approx(
        true_ceiling(rates), abs=0.003)


def test_ceiling_does_not_call_luck_skill():
    random = np.random.default_rng(2)
    errors, plugged = [], []
    for _ in range(40):
        rates = random.beta(1.0, 3.0, N)
        failures = random.binomial(10, rates)
        true = true_ceiling(rates)
        errors.append(ceiling(failures, np.full(N, 10)).value - true)
        plugged.append(judge(list(failures / 10), failures, 10 - failures).accuracy.value - true)
    assert np.mean(plugged) > 0.03
    assert abs(np.mean(errors)) < np.mean(plugged) / 3


def test_ceiling_without_a_pair():
    assert ceiling([3, 4], [3, 4]).value is ceiling([], []).value is None


# Entropy, counts, severity and distances.

def test_entropy():
    assert entropy([0.5, 0.25, 0.25], 2) == pytest.approx(1.5)
    assert entropy([1, 0, 0], 2) == 0
    assert entropy([7] * N) == pytest.approx(np.log(N))


def test_papers_exploration_is_in_nats_and_near_a_uniform_chooser():
    value, = (paper.value for paper in PAPER['exploration_nats'])
    assert value == 2.8839 and 0.94 < value / np.log(N) < 1 and value < 0.7 * np.log2(N)


def test_papers_severity_is_of_rates_and_not_of_shares():
    lowest, highest = (paper.value for paper in PAPER['fsi'])
    random = np.random.default_rng(3)
    severities = [failure_severity(random.dirichlet(np.full(N, a)))
                  for a in (0.05, 0.3, 1, 50) for _ in range(50)]
    assert max(severities) <= 1 < highest and min(severities) < lowest
    assert failure_severity([0.7, 0.6, 0.4, 0.2]) == pytest.approx(1.05 / 0.7)


def test_severity_by_hand():
    assert failure_severity([0.2, 0.4, 0.0]) == pytest.approx((0.04 + 0.16) / 0.4)
    assert failure_severity([0.0, 0.0]) == 0
    assert failure_severity([1 / N] * N) == pytest.approx(1)  # the most a mass can have


def test_modes_by_mass():
    assert modes_by_mass([1 / N] * N) == N
    assert modes_by_mass([0.5, 0.25, 0.125, 0.125]) == 4  # 1 / (2 N) counts
    assert modes_by_mass([0.5, 0.26, 0.12, 0.12]) == 2
    for modes in (3, 4, 5, 6):  # Table II
        rest = 0.1 / (N - modes)
        assert modes_by_mass([0.9 / modes] * modes + [rest] * (N - modes)) == modes


def test_wasserstein_uniform():
    assert wasserstein_uniform([1, 0, 0, 0]) == pytest.approx((0.75 + 3 * 0.25) / 4)
    assert wasserstein_uniform([0.3] * 5) == pytest.approx(0) == wasserstein_uniform([1] * 5)
    shares = np.random.default_rng(4).dirichlet(np.full(N, 30))
    assert wasserstein_uniform(list(shares)) == pytest.approx(np.abs(shares - 1 / N).mean())
    assert wasserstein_uniform([0.0, 0.0]) is None


# The mean failure rate.

def trials(failed):
    """Return a perturbation's outcomes by trial."""
    return {trial: bool(each) for trial, each in enumerate(failed)}


def test_mean_rate_counts_every_perturbation_the_same():
    mean, (low, high) = mean_rate([trials([1, 1]), trials([0] * 8)])
    assert mean == 0.5 and low < 0.5 < high
    mean, interval = mean_rate([trials([0] * 20)] * 5)
    assert mean == 0 and interval == pytest.approx(wilson(0, 100))
    assert mean_rate([trials([1] * 20)] * 5)[1] == pytest.approx(wilson(100, 100))


def test_what_fails_together_counts_for_less():
    random = np.random.default_rng(5)
    hard = random.random(40) < 0.5
    assert effective_number([trials(hard)] * N) < 41
    apart = [trials(random.random(40) < 0.5) for _ in range(N)]
    assert 40 * N / 3 < effective_number(apart) <= 40 * N


def test_interval_of_the_mean_covers_where_initial_states_are_hard_for_all():
    random = np.random.default_rng(6)
    rates = random.beta(1, 4, N)
    covered = naive = 0
    for _ in range(300):
        hard = np.sqrt(0.4) * random.normal(size=(20, 1))
        failed = hard + np.sqrt(0.6) * random.normal(size=(20, N)) < norm.ppf(rates)
        _, (low, high) = mean_rate([trials(column) for column in failed.T])
        covered += low <= rates.mean() <= high
        low, high = wilson(int(failed.sum()), failed.size)
        naive += low <= rates.mean() <= high
    assert covered >= 0.92 * 300 > naive


# What the searcher chose.

def entry(key, *names, verdict='success', trial=0):
    """Return a rollout that has ended."""
    return Entry(key, End(names, 'discovery', trial, verdict, ''))


def test_choices_are_what_was_added():
    found = choices([
        entry('ppo/0/0/0', 'a'), entry('ppo/0/0/1', 'a', 'b'),
        entry('ppo/0/1/0', 'c'),  # another environment's
        entry('ppo/0/0/2', 'a', 'b2'),  # b2 overwrote b
        entry('ppo/0/0/3', 'a', 'b2'),  # a or b2 again
        entry('ppo/1/0/0', 'a', 'b2', 'd', verdict='failure'),
        entry('ppo/1/0/1', 'a'), entry('ppo/0/1/1', 'c'),
        entry('confirm/a/0', 'a', trial=1_000_000), Entry('control/0', End(
            (), 'control', 0, 'success', ''))], max_perturbations=9)
    assert found == ({'a': 2, 'b': 1, 'b2': 1, 'c': 2, 'd': 1}, 1)


def test_choices_after_an_episode_is_cut_off():
    walk = [entry('ppo/0/0/0', 'a'), entry('ppo/0/0/1', 'a', 'b'), entry('ppo/0/0/2', 'a'),
            entry('ppo/0/0/3', 'a', 'c', verdict='invalid'), entry('ppo/0/0/4', 'b')]
    assert choices(walk, 2) == ({'a': 2, 'b': 2, 'c': 1}, 0)


@pytest.mark.parametrize('deepest', [1, 3])
def test_choices_are_those_of_the_search(tmp_path, monkeypatch, deepest):
    taken = Counter()
    take = SearchEnv.take

    def noted(self, action, probability):
        taken[CATALOGUE.names[action]] += 1
        return take(self, action, probability)

    monkeypatch.setattr(SearchEnv, 'take', noted)
    monkeypatch.setitem(PPO, 'n_epochs', 1)
    a_diagnosis(settings(tmp_path, searcher='ppo', rollouts=120, max_perturbations=deepest,
                         confirm_share=0.2), CoinRunner(2))
    chosen, untold = choices(read_entries(tmp_path), deepest)
    assert chosen <= taken and taken.total() == chosen.total() + untold > 60
    if deepest == 1:
        assert chosen == taken


# Of a diagnosis.

def test_measures_of_a_sweep(sweep):
    found = by_name(sweep)
    failure_map = read_map(sweep)
    for name in ('pair_accuracy.search_mass', 'entropy_bits', 'fsi_by_mass',
                 'failure_modes_by_mass', 'wasserstein_uniform.search_mass'):
        assert found[name].value is None and found[name].note
    rates = [row.failure_rate for row in failure_map.perturbations]
    assert found['wasserstein_zero'].value == pytest.approx(np.mean(rates))
    low, high = found['wasserstein_zero'].interval
    assert low < np.mean(rates) < high
    assert found['fsi'].value == pytest.approx(sum(r * r for r in rates) / max(rates))
    assert found['failure_modes'].value == len(failure_map.failure_modes) == 2
    assert found['exploration_nats'].n == 270
    assert found['exploration_nats'].value == pytest.approx(np.log(6))
    assert found['exploration_nats.uniform'].value == np.log(6)


def test_halves_of_a_sweep_judge_each_other(sweep):
    names = CATALOGUE.names
    failures, successes = np.zeros((2, 6), int), np.zeros((2, 6), int)
    for condition, trial, verdict in rows(
            sweep, "SELECT condition, trial, verdict FROM rollouts WHERE condition != '[]'"):
        place = trial % 2, names.index(json.loads(condition)[0])
        (failures if verdict == 'failure' else successes)[place] += 1
    right = total = 0
    for half in (0, 1):
        rates = failures[1 - half] / (failures + successes)[1 - half]
        for i in range(6):
            for j in range(6):
                pairs = failures[half, i] * successes[half, j] * (i != j)
                total += pairs
                right += pairs * ((rates[i] > rates[j]) + 0.5 * (rates[i] == rates[j]))
    found = by_name(sweep)['pair_accuracy.split_half_rate']
    assert (found.value, found.n) == (pytest.approx(right / total), total)


def test_a_search_is_scored_by_rollouts_that_were_planned(ppo):
    found = by_name(ppo)
    failure_map = read_map(ppo)
    mass = {row.name: row.search_mass for row in failure_map.perturbations}
    labels, scores, names = [], [], []
    for condition, verdict in rows(
            ppo, "SELECT condition, verdict FROM rollouts WHERE purpose = 'confirmation'"):
        if len(json.loads(condition)) == 1:
            name, = json.loads(condition)
            names.append(name)
            labels.append(verdict == 'failure')
            scores.append(mass[name])
    pairs = [(i, j) for i, a in enumerate(names) for j, b in enumerate(names)
             if a != b and labels[i] and not labels[j]]
    assert pairs
    measure = found['pair_accuracy.search_mass']
    assert measure.n == len(pairs)
    assert measure.value == pytest.approx(
        np.mean([(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in pairs]))
    assert found['entropy_bits'].value == pytest.approx(
        -sum(m * np.log2(m) for m in mass.values()))
    assert found['fsi_by_mass'].value <= 1


def test_measures_while_the_diagnosis_goes_on(sweep):
    before = (sweep / 'ledger.sqlite').read_bytes()
    with Ledger(sweep, read_map(sweep).settings, (), 'robomd diagnose', {}):
        found = by_name(sweep)
    assert found['wasserstein_zero'].value > 0
    assert (sweep / 'ledger.sqlite').read_bytes()[100:] == before[100:]  # but for its counters


def test_a_diagnosis_that_has_not_ended_has_no_verdicts_and_no_final_intervals(sweep, tmp_path):
    shutil.copytree(sweep, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'failure_map.json'
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {'stopped': ''}))
    found = by_name(tmp_path)
    assert found['failure_modes'].value is None and 'has ended' in found['failure_modes'].note
    assert found['wasserstein_zero'].value and found['wasserstein_zero'].interval is None
    assert 'no interval, as the diagnosis has not ended;' in found['wasserstein_zero'].note


def test_discovery_gets_no_interval(ppo):
    sources = Counter(row.source for row in read_map(ppo).perturbations)
    adaptive, tried = sources['discovery'], sources['discovery'] + sources['confirmation']
    assert adaptive
    mean = by_name(ppo)['wasserstein_zero']
    assert mean.interval is None
    assert f'no interval, as {adaptive} of {tried} rates are of discovery;' in mean.note


def test_over_says_how_many_were_tried(tmp_path, sweep):
    a_diagnosis(settings(tmp_path, rollouts=5), CoinRunner())
    tried = sum(row.n > 0 for row in read_map(tmp_path).perturbations)
    assert 0 < tried < 6
    found, whole = by_name(tmp_path), by_name(sweep)
    for name in ('wasserstein_zero', 'fsi', 'wasserstein_uniform.failure_rates', 'failure_modes'):
        assert (found[name].n, found[name].counted) == (tried, 'of 6 perturbations')
        assert (whole[name].n, whole[name].counted) == (6, 'perturbations')
    assert f' {tried} of 6 ' in measures_table(read_map(tmp_path), list(found.values()))


def test_a_diagnosis_on_a_disk_that_cannot_be_written_to(sweep, tmp_path):
    if subprocess.run(['mount', '--bind', str(sweep), str(tmp_path)]).returncode:
        pytest.skip('file systems cannot be mounted here')
    try:
        subprocess.run(['mount', '-o', 'remount,ro,bind', str(tmp_path)], check=True)
        for side in tmp_path.glob('ledger.sqlite-*'):
            (sweep / side.name).unlink()
        assert read_entries(tmp_path) == read_entries(sweep)
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


def test_nothing_tried_yet(tmp_path):
    class Unusable(CoinRunner):

        def outcome(self, request, failed):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_diagnosis(settings(tmp_path), Unusable())
    found = by_name(tmp_path)
    assert all(measure.value is None for name, measure in found.items()
               if name != 'exploration_nats.uniform')
    assert measures_table(read_map(tmp_path), list(found.values()))


def test_file_keeps_the_papers_values_apart(ppo):
    diagnosed = read_diagnosis(ppo)
    found = measures(diagnosed)
    content = json.loads(write_measures(ppo, diagnosed, found).read_text())
    assert (content['format'], content['version']) == ('robomd_ros/measures', 1)
    assert content['map']['settings']['policy_digest'] == 'b' * 64
    for measure, entry in zip(found, content['measures'], strict=True):
        assert entry['value'] == measure.value and entry['unit'] and entry['note']
        assert [paper['value'] for paper in entry['paper']] == [
            paper.value for paper in measure.paper]


def test_table_has_the_paper_in_a_column_of_its_own(ppo):
    lines = measures_table(read_map(ppo), measures(read_diagnosis(ppo))).splitlines()
    assert max(map(len, lines)) <= 96
    place = next(line.index('IN THE PAPER') for line in lines if 'IN THE PAPER' in line)
    row, = (line for line in lines if line.startswith('exploration_nats  '))
    assert row[place:].startswith('2.8839 PPO') and '2.8839' not in row[:place]
    assert ' nats ' in row[:place] and ' choices' in row[:place]


def test_command_prints_and_writes(ppo, capsys):
    (ppo / 'measures.json').unlink(missing_ok=True)
    assert main(['measures', str(ppo)]) == 0
    assert 'wasserstein_zero' in capsys.readouterr().out
    assert (ppo / 'measures.json').is_file()


def test_command_refuses_what_is_no_diagnosis(ppo, tmp_path, capsys):
    assert main(['measures', str(tmp_path)]) == 2
    (tmp_path / 'failure_map.json').write_bytes((ppo / 'failure_map.json').read_bytes())
    assert main(['measures', str(tmp_path)]) == 2
    (tmp_path / 'ledger.sqlite').write_text('no ledger')
    assert main(['measures', str(tmp_path)]) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert 'failure_map.json' in first and 'no ledger' in second and 'cannot be read' in third
    with pytest.raises(UserError):
        read_diagnosis(tmp_path)
