# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The benchmark of searchers: what it measures, that it goes on, and what it refuses."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
import json
from pathlib import Path
import time

from coin_runner import a_diagnosis, CATALOGUE, CoinRunner, INFO, settings
import cv2
import numpy as np
import pytest
from robomd_ros import cli
from robomd_ros.cli import benchmark
from robomd_ros.conditions import Condition
from robomd_ros.diagnosis import search_benchmark
from robomd_ros.diagnosis.environment import control_request
from robomd_ros.diagnosis.pool import PoolRunner, read_sweep
from robomd_ros.diagnosis.run import SEARCHERS
from robomd_ros.diagnosis.search_benchmark import Benchmark, Judge, live, replayed, run_benchmark
from robomd_ros.diagnosis.search_summary import (
    band,
    median_interval,
    ratio_interval,
    summarize,
    time_to,
    write_results,
)
from robomd_ros.diagnosis.suspicion import Suspicion
from robomd_ros.errors import UserError
from robomd_ros.reports.curves import benchmark_table, curves_png
from robomd_ros.rollouts.protocol import RolloutRequest
from scipy.stats import binom, t

POOL = Path(__file__).parents[1] / 'benchmarks' / 'pools' / 'builtin_lift.npz'
NAMES = CATALOGUE.names
SUSPICION = Suspicion({name: float('table' in name) for name in NAMES},
                      dict.fromkeys(NAMES, 0.0), 35, 4)


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
    """Return the pool of a sweep of 40 rollouts a condition."""
    out = tmp_path_factory.mktemp('sweep')
    a_diagnosis(settings(out, rollouts=281, control_share=1 / 7 + 1e-9), CoinRunner())
    found = replace(read_sweep(out), suspicion=SUSPICION)
    assert found.trials == 40
    return found


def asked(out, *searchers, **others):
    """Return what is asked for: two seeds of 60 rollouts."""
    given = {'rollouts': 60, 'seeds': 2, 'replayed': True, 'versions': {'robomd_ros': '0.1.0'}}
    return Benchmark('lift', 'builtin:lift', CATALOGUE, searchers or ('sweep',), out=out,
                     **given | others)


def with_rates(pool, rates, nominal=0.0):
    """Return a pool of 40 rollouts a condition with these failure rates."""
    order = {name: place for place, name in enumerate(pool.names)}
    failed = np.zeros((len(pool.names), 40), bool)
    for name, rate in {'nominal': nominal, **dict(zip(NAMES, rates, strict=True))}.items():
        failed[order[name], :round(40 * rate)] = True
    return replace(pool, failed=failed, valid=np.ones_like(failed))


@contextmanager
def ground_with(runner, pool, settings):
    """Open the ground of a replay with another runner."""
    with replayed(pool)(settings) as ground:
        yield replace(ground, runner=runner)


def without_seconds(runs):
    """Return the runs less what depends on the machine."""
    return [replace(run, seconds=0.0) for run in runs]


@pytest.mark.parametrize('scores, rates, accuracy', [
    ([1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], 1.0),
    ([0, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], 0.0),
    ([0, 0, 0, 0, 0, 0], [1, 0.5, 0, 0, 0.25, 0], 0.5),
    ([2, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0.5], None),
    ([.3, .2, .9, .1, .5, .4], [0.75, 0.25, 0.5, 0, 1, 0.1], None)])
def test_pair_accuracy_is_that_of_outcomes_at_the_true_rates(pool, scores, rates, accuracy):
    found = Judge(with_rates(pool, rates), CATALOGUE).accuracy(scores)
    right = total = 0.0
    for i, first in enumerate(rates):
        for j, second in enumerate(rates):
            if i != j:
                weight = first * (1 - second)
                total += weight
                right += weight * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    assert found == pytest.approx(right / total)
    assert accuracy is None or found == pytest.approx(accuracy)


def test_failure_modes_are_what_the_failure_map_calls_so(pool):
    judged = Judge(with_rates(pool, [1, 0.5, 0.3, 0.15, 0.1, 0], nominal=0.1), CATALOGUE)
    assert judged.modes.tolist() == [True, True, True, False, False, False]
    assert judged.nominal == pytest.approx(0.1) and judged.rates.tolist() == pytest.approx(
        [1, 0.5, 0.3, 0.15, 0.1, 0])
    assert judged.share(judged.ceiling) == 1 and judged.share(0.5) == 0


def test_rates_that_rank_nothing_are_refused(pool):
    for rate in (0, 1):
        with pytest.raises(UserError, match='all ended alike, so that there is no ranking'):
            Judge(with_rates(pool, [rate] * 6), CATALOGUE)


@pytest.mark.parametrize('accuracy, rollouts', [
    ([0.5, 0.9, 0.98, 0.99], 2), ([0.98, 0.99], 0), ([0.5, 0.99, 0.9, 0.98], 3),
    ([0.99, 0.99, 0.97], np.inf), ([0.5, 0.5], np.inf)])
def test_time_to_target_is_when_it_is_reached_for_good(accuracy, rollouts):
    assert time_to(accuracy, 0.98) == rollouts


def test_band_is_students(pool):
    curves = np.random.default_rng(0).random((10, 5))
    found = band(curves)
    low, high = t.interval(0.95, 9, curves.mean(0), curves.std(0, ddof=1) / np.sqrt(10))
    assert found.mean == pytest.approx(curves.mean(0), abs=1e-4)
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)
    assert band(curves[:1]).low is None


def test_median_interval_promises_its_coverage():
    ten = [9, 1, 8, 2, 7, 3, 6, 4, 5, np.inf]
    assert median_interval(ten) == (2, 9)  # Conover's table: the 2nd and the 9th of ten
    assert 1 - 2 * binom.cdf(1, 10, 0.5) >= 0.95 > 1 - 2 * binom.cdf(2, 10, 0.5)
    assert median_interval(ten[:5]) is None and median_interval([*ten, *ten])[1] == 8
    generator = np.random.default_rng(1)
    ends = np.array([median_interval(generator.exponential(size=10)) for _ in range(2000)])
    assert np.mean((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])) > 0.95


def test_ratio_interval():
    ten = np.arange(10, 20.0)
    assert ratio_interval(ten, 2 * ten) == (0.5, 0.5)  # the same seeds of both are drawn
    low, high = ratio_interval(ten, np.full(10, 10.0))
    assert 1.0 < low < np.median(ten) / 10 < high < 1.9
    never = np.full(10, np.inf)
    assert ratio_interval(never, ten) == (np.inf, np.inf) and ratio_interval(ten, never) == (0, 0)
    assert ratio_interval(never, never) is None and ratio_interval(ten[:1], ten[:1]) is None


@pytest.mark.parametrize('searcher', ['sweep', 'ppo'])
def test_a_run_says_what_was_found_after_each_rollout(pool, tmp_path, searcher):
    """Recount a run from the requests themselves."""
    shown = []

    class Watched(PoolRunner):

        def run(self, requests):
            for result in super().run(requests):
                shown.append(result)
                yield result

    run, = run_benchmark(asked(tmp_path, searcher, seeds=1), pool,
                         partial(ground_with, Watched(pool), pool))
    results = list({result.request.key: result for result in reversed(shown)}.values())[::-1]
    assert len(results) == 60 and len(run.accuracy) == 61 == len(run.modes) == len(run.false)
    purposes = Counter(result.request.purpose for result in results)
    assert purposes == {'control': 20,
                        'confirmation' if searcher == 'sweep' else 'discovery': 40}
    assert {len(result.request.condition) for result in results} == {0, 1}
    judged = Judge(pool, CATALOGUE)
    n, failures = Counter(), Counter()
    for done, result in enumerate([None, *results]):
        if result is not None:
            n[result.request.condition.label] += 1
            failures[result.request.condition.label] += result.outcome.verdict == 'failure'
        scores = [(failures[name] + 1) / (n[name] + 2) for name in NAMES]
        assert run.accuracy[done] == judged.accuracy(scores)
    assert run.accuracy[0] == 0.5
    found = {name: search_benchmark.confidence_sequence(failures[name], n[name])
             for name in ('nominal', *NAMES)}
    above = {name for name in NAMES if found[name][0] > found['nominal'][1]}
    modes = {name for name, mode in zip(NAMES, judged.modes, strict=True) if mode}
    assert run.modes[-1] == len(above & modes) and run.false[-1] == len(above - modes)
    assert (run.by_mass is None) == (searcher == 'sweep')


def a_searcher(monkeypatch, search):
    """Have 'thompson' search so."""
    class Own:

        fixed = learns = False

        def search(self, given):
            search(given)

    monkeypatch.setitem(SEARCHERS, 'thompson', Own())


def request_of(name, trial):
    """Return the request for a rollout of one perturbation."""
    return RolloutRequest(f'own/{name}/{trial}', Condition((CATALOGUE[name],)), 0, trial)


def test_an_estimate_is_judged_from_when_it_is_told(pool, tmp_path, monkeypatch):
    truth = Judge(pool, CATALOGUE)

    def search(given):
        given.on_estimate(np.array([given.suspicion().deviation[name] for name in NAMES]))
        for trial in range(30):
            list(given.runner.run([control_request(0, trial)]))
        given.on_estimate(truth.rates)
        given.on_mass(np.full(6, 1 / 6))
        list(given.runner.run(request_of('red_table', trial) for trial in range(30)))

    a_searcher(monkeypatch, search)
    run, = run_benchmark(asked(tmp_path, 'thompson', seeds=1), pool, replayed(pool))
    before = truth.accuracy([SUSPICION.deviation[name] for name in NAMES])
    assert set(run.accuracy[:30]) == {before} and set(run.accuracy[30:]) == {truth.ceiling}
    assert set(run.by_mass) == {0.5}
    assert run.modes[:31] == (0,) * 31 and run.modes[-1] == 1
    found = summarize(asked(tmp_path, 'thompson', seeds=1), pool, [run])
    assert found.prior.accuracy == before and found.prior.share == truth.share(before)
    assert found.standings[0].to_target == (30,) and found.standings[0].ratio is None


def test_a_key_is_one_rollout_and_the_budget_is_kept(pool, tmp_path, monkeypatch):
    def search(given):
        for _ in range(3):
            list(given.runner.run(request_of('red_table', trial) for trial in range(60)))
        with pytest.raises(RuntimeError, match='more than the 60 rollouts of the budget'):
            list(given.runner.run([request_of('red_table', 60)]))

    a_searcher(monkeypatch, search)
    run, = run_benchmark(asked(tmp_path, 'thompson', seeds=1), pool, replayed(pool))
    assert len(run.accuracy) == 61


def test_a_search_that_ends_early_keeps_what_it_has(pool, tmp_path, monkeypatch):
    a_searcher(monkeypatch, lambda given: list(given.runner.run([request_of('green_table', 0)])))
    run, = run_benchmark(asked(tmp_path, 'thompson', seeds=1), pool, replayed(pool))
    assert run.accuracy[0] == 0.5 < run.accuracy[1] and len(set(run.accuracy[1:])) == 1
    assert len(run.accuracy) == 61


def test_a_runner_that_takes_requests_ahead_misses_no_point(pool, tmp_path, monkeypatch):
    a_searcher(monkeypatch, lambda given: list(given.runner.run(
        [request_of('green_table', 0), *(control_request(0, trial) for trial in range(59))])))
    tosses = CoinRunner()
    run, = run_benchmark(asked(tmp_path, 'thompson', seeds=1), pool,
                         partial(ground_with, tosses, pool))
    assert tosses.ran[-1] == 'own/green_table/0' and len(run.accuracy) == 61
    assert set(run.accuracy[:60]) == {0.5} and run.accuracy[60] > 0.5


def test_own_time_is_without_rollouts(pool, tmp_path, monkeypatch):
    def search(given):
        given.suspicion()
        for result in given.runner.run(slow_requests()):
            time.sleep(0.02)
            assert result is not None

    def slow_requests():
        for trial in range(10):
            time.sleep(0.02)
            yield request_of('red_table', trial)

    a_searcher(monkeypatch, search)
    run, = run_benchmark(asked(tmp_path, 'thompson', seeds=1), pool,
                         partial(ground_with, CoinRunner(seconds=0.05), pool))
    assert 0.4 <= run.seconds < 0.65  # and 0.5 more for the rollouts


def test_interrupted_and_taken_up_again(pool, tmp_path):
    left = 0

    def stopping(rollouts):
        nonlocal left
        left -= rollouts
        if left < 0:
            raise KeyboardInterrupt

    names = 'sweep', 'ppo'
    whole = run_benchmark(asked(tmp_path / 'whole', *names), pool, replayed(pool))
    out = tmp_path / 'out'
    for rollouts in (70, 150):
        left = rollouts
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(asked(out, *names), pool, replayed(pool), stopping)
    done = {path.name for path in (out / 'runs').iterdir()}
    assert done == {'sweep-0.json', 'ppo-0.json'}
    opened, told = [], []

    def opener(settings):
        opened.append((settings.searcher, settings.seed))
        return replayed(pool)(settings)

    again = run_benchmark(asked(out, *names), pool, opener, told.append)
    assert opened == [('sweep', 1), ('ppo', 1)] and sum(told) == 240
    assert without_seconds(again) == without_seconds(whole)
    texts = []
    for runs, folder in ((whole, tmp_path / 'whole'), (again, out)):
        same = without_seconds(runs)
        path = write_results(asked(folder, *names), pool,
                             summarize(asked(folder, *names), pool, same), 'robomd benchmark')
        content = json.loads(path.read_text())
        content.pop('created')
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]


def test_more_seeds_and_searchers_go_on(pool, tmp_path):
    run_benchmark(asked(tmp_path, seeds=1), pool, replayed(pool))
    before = (tmp_path / 'runs' / 'sweep-0.json').stat().st_mtime_ns
    (tmp_path / 'runs' / 'sweep-1.json').write_text('{"settings": {')  # as no crash leaves it
    runs = run_benchmark(asked(tmp_path, 'sweep', 'ppo'), pool, replayed(pool))
    assert [(run.searcher, run.seed) for run in runs] == [
        ('sweep', 0), ('ppo', 0), ('sweep', 1), ('ppo', 1)]
    assert (tmp_path / 'runs' / 'sweep-0.json').stat().st_mtime_ns == before


@pytest.mark.parametrize('other, what', [
    ({'rollouts': 80}, 'rollouts'), ({'versions': {'torch': '3'}}, 'versions'),
    ({'replayed': False}, 'replayed')])
def test_another_benchmark_in_the_folder_is_refused(pool, tmp_path, other, what):
    run_benchmark(asked(tmp_path, seeds=1), pool, replayed(pool))
    with pytest.raises(UserError, match=f'holds runs of a benchmark with another {what}; give'):
        run_benchmark(asked(tmp_path, seeds=1, **other), pool, replayed(pool))
    with pytest.raises(UserError, match='with another truth; give another out'):
        run_benchmark(asked(tmp_path, seeds=1), replace(pool, command='other'), replayed(pool))


class Orderly(CoinRunner):
    """Tosses coins in the order of the requests, as LocalRunner runs rollouts."""

    def run(self, requests):
        """Yield the results in order."""
        for request in requests:
            yield self._toss(request)


def test_live_goes_on_from_its_ledgers(pool, tmp_path):
    """Rollouts run live are kept in ledgers, and a benchmark taken up again runs none twice."""
    def opener(runner):
        return live(runner, CATALOGUE, INFO, 'b' * 64, {'robomd_ros': '0.1.0'}, 'robomd')

    given = asked(tmp_path, 'sweep', 'thompson', 'ppo', seeds=1, replayed=False)
    first = Orderly(before=lambda request: _fail_at(first, 150))
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(given, pool, opener(first))
    second = Orderly()
    runs = run_benchmark(given, pool, opener(second))
    assert len(first.ran) == 150 and len(second.ran) == 30
    assert not (set(first.ran[120:]) & set(second.ran))
    assert (tmp_path / 'live' / 'ppo-0' / 'ledger.sqlite').is_file()
    whole = run_benchmark(replace(given, out=tmp_path / 'whole'), pool, opener(Orderly()))
    assert without_seconds(runs) == without_seconds(whole)
    assert len(set(runs[1].accuracy)) > 2
    interrupted = replace(given, searchers=('thompson',), out=tmp_path / 'thompson')
    third = Orderly(before=lambda request: _fail_at(third, 31))
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(interrupted, pool, opener(third))
    assert without_seconds(run_benchmark(interrupted, pool, opener(Orderly()))) == (
        without_seconds(whole[1:2]))
    summary = summarize(given, pool, runs)
    assert summary.how.startswith('Run live; the true rates are those of a sweep of 40')


def _fail_at(runner, rollouts):
    if len(runner.ran) == rollouts:
        raise KeyboardInterrupt


def test_a_searcher_that_needs_the_suspicion_says_so(pool, tmp_path, monkeypatch):
    a_searcher(monkeypatch, lambda given: given.suspicion())
    bare = replace(pool, suspicion=None)
    with pytest.raises(UserError, match='thompson needs the suspicion, which the pool has not'):
        run_benchmark(asked(tmp_path, 'thompson'), bare, replayed(bare))
    runs = run_benchmark(asked(tmp_path), bare, replayed(bare))
    assert summarize(asked(tmp_path), bare, runs).prior is None


@pytest.mark.parametrize('wrong, sentence', [
    ({'searchers': ('magic',)}, "Unknown searcher 'magic'; choose one of ppo, a2c, sweep"),
    ({'searchers': ('',)}, "Unknown searcher ''; choose one of"),
    ({'searchers': ('sweep', 'sweep')}, 'searchers must be one or more, each named once'),
    ({'seeds': 0}, 'seeds must be a whole number from 1 to 1000, not 0'),
    ({'seeds': -3}, 'seeds must be a whole number from 1 to 1000, not -3'),
    ({'rollouts': 0}, 'rollouts must be a whole number from 1'),
    ({'rollouts': 10}, '10 rollouts leave 5 for 6 perturbations'),
    ({'rollouts': 1, 'searchers': ('ppo',)}, '1 rollouts, 1 of them of the nominal scene, are')])
def test_what_cannot_be_used_is_refused(pool, tmp_path, wrong, sentence):
    wrong = dict(wrong)
    searchers = wrong.pop('searchers', ('sweep',))
    with pytest.raises(UserError, match=sentence):
        run_benchmark(asked(tmp_path, *searchers, **wrong), pool, replayed(pool))
    assert not (tmp_path / 'runs').exists()
    asked(tmp_path, rollouts=11).check()


def test_figure_and_table_say_that_it_was_replayed(pool, tmp_path):
    given = asked(tmp_path, 'sweep', 'ppo')
    summary = summarize(given, pool, run_benchmark(given, pool, replayed(pool)))
    picture = cv2.imdecode(np.frombuffer(curves_png(given, summary), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (900, 1600, 3)
    # Okabe and Ito's vermilion, BGR: PPO's line is there.
    assert (np.abs(picture.astype(int) - (0x00, 0x5e, 0xd5)).max(axis=2) < 8).sum() > 500
    table = benchmark_table(given, summary)
    assert max(map(len, table.splitlines())) <= 96
    assert 'Replayed: no rollout was run' in table and 'replayed.' in table.splitlines()[0]
    assert 'Suspicion alone' in table
    content = json.loads(write_results(given, pool, summary, 'robomd benchmark').read_text())
    assert content['replayed'] is True and content['summary']['how'].startswith('Replayed: no')
    assert content['seeds'] == [0, 1] and content['command'] == 'robomd benchmark'
    assert content['truth']['digest'] == pool.digest and content['control'] == 20
    assert [len(each['accuracy']['mean']) for each in content['summary']['standings']] == [61] * 2


@pytest.fixture
def robomd(monkeypatch, capfd):
    """Return the command line: gives the exit code, what it wrote, and its errors."""
    monkeypatch.setattr(cli, '_COMMANDS', (benchmark,))

    def run(*words):
        code = cli.main(['benchmark', *map(str, words)])
        return code, *capfd.readouterr()
    return run


def test_the_command_replays_a_pool(robomd, tmp_path):
    words = ('search', '--task', 'lift', '--policy', 'builtin:lift', '--searchers', 'sweep',
             '--rollouts', 60, '--seeds', 2, '--out', tmp_path, '--pool', POOL)
    code, out, err = robomd(*words)
    assert code == 0 and 'Replaying: 100%' in err
    assert out.startswith('Replayed: no rollout was run') and 'to target' in out
    content = json.loads((tmp_path / 'results.json').read_text())
    assert content['rollouts'] == 60 and content['control'] == 20 and content['seeds'] == [0, 1]
    assert content['command'].startswith('robomd benchmark search --task lift')
    assert len(content['summary']['modes']) == 12
    assert (tmp_path / 'search.png').read_bytes().startswith(b'\x89PNG')
    assert not (tmp_path / 'live').exists()


@pytest.mark.parametrize('words, sentence', [
    (('search', '--pool', '/nowhere/p.npz'), 'There is no pool of rollouts /nowhere/p.npz'),
    (('search', '--pool', __file__), 'is damaged or not a pool of rollouts'),
    (('search', '--pool', POOL, '--searchers', 'ppo,magic'), "Unknown searcher 'magic'"),
    (('search', '--pool', POOL, '--seeds', 0), 'seeds must be a whole number from 1 to 1000'),
    (('search', '--pool', POOL, '--rollouts', 30), '30 rollouts leave 15 for 21 perturbations'),
    (('search', '--pool', POOL, '--policy', 'builtin:other'), 'are of the policy builtin:lift, '),
    (('search', '--pool', POOL, '--task', 'juggle'), "Unknown task 'juggle'"),
    (('search', '--truth', '/nowhere'), 'There is no ledger /nowhere/ledger.sqlite'),
    (('pool', '/nowhere', '--out', 'pool.txt'), '--out must end in .npz, and pool.txt does not'),
    (('pool', '/nowhere', '--out', 'pool.npz'), 'There is no ledger /nowhere/ledger.sqlite')])
def test_the_command_refuses_in_one_sentence(robomd, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = robomd(*words)
    line, = err.strip().splitlines()
    assert code == 2 and not out and sentence in line and line.endswith('.')
    assert not list(tmp_path.rglob('*.json')) and not list(tmp_path.rglob('*.npz'))


def test_the_command_runs_live_with_a_sweep_for_the_truth(robomd, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'TRUTH_TRIALS', 1)
    catalogue = tmp_path / 'c.yaml'
    catalogue.write_text('task: lift\nperturbations:\n' + ''.join(
        f'  - name: {color}_robot\n    slot: robot.color\n    value: {value}\n'
        f'    sentence: Paint the robot {color}\n'
        for color, value in (('red', [1, 0, 0]), ('green', [0, 1, 0]))))
    words = ('search', '--catalogue', catalogue, '--searchers', 'sweep', '--rollouts', 4,
             '--seeds', 1, '--out', tmp_path / 'out')
    code, out, err = robomd(*words)
    assert code == 0 and 'True rates: 100%' in err and 'Rollouts: 100%' in err
    assert 'Run live; the true rates are those of a sweep of 1 rollouts a condition' in out
    content = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert content['summary']['rates'] == {'nominal': 0, 'red_robot': 1, 'green_robot': 0}
    again = json.loads((tmp_path / 'out' / 'runs' / 'sweep-0.json').read_text())
    code, out, err = robomd(*words, '--truth', tmp_path / 'out' / 'truth')
    assert code == 0 and 'True rates' not in err
    assert json.loads((tmp_path / 'out' / 'runs' / 'sweep-0.json').read_text()) == again
    code, out, err = robomd('pool', tmp_path / 'out' / 'truth', '--catalogue', catalogue,
                            '--out', tmp_path / 'pool.npz')
    assert code == 0 and '1 rollouts of each of 3 conditions, without suspicion' in out
    code, out, err = robomd(*words[:-1], tmp_path / 'replay', '--pool', tmp_path / 'pool.npz')
    assert code == 0 and 'Replayed: no rollout was run' in out
