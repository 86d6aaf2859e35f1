# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pool: what it keeps of a sweep, and that replaying it is a function of the request."""

from contextlib import closing
from dataclasses import asdict, replace
import json
from pathlib import Path
import sqlite3

from coin_runner import a_diagnosis, a_picture, CATALOGUE, CoinRunner, INFO, settings
import numpy as np
import pytest
from robomd_ros.conditions import Condition, load_catalogue
from robomd_ros.diagnosis.pool import load_pool, make_pool, PoolRunner, read_sweep
from robomd_ros.diagnosis.suspicion import Suspicion, SUSPICION_FILE
from robomd_ros.errors import UserError
from robomd_ros.rollouts.protocol import RolloutRequest, RunnerError
from robomd_ros.worlds.protocol import Outcome

ROOT = Path(__file__).parents[1]
SUSPICION = Suspicion(
    {name: place / 10 for place, name in enumerate(CATALOGUE.names)},
    {name: place / 20 for place, name in enumerate(CATALOGUE.names)}, 35, 4)


class InvalidNowAndThen(CoinRunner):
    """Has every fifth trial of a red cube invalid."""

    def outcome(self, request, failed):
        """Return what the coin says, or that it was lost."""
        if request.condition.names == ('red_cube',) and request.trial % 5 == 0:
            return Outcome('invalid', 'coin_lost')
        return super().outcome(request, failed)


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
    """Return the folder of a sweep of about 17 rollouts a condition, and its suspicion."""
    out = tmp_path_factory.mktemp('sweep')
    a_diagnosis(settings(out, rollouts=120, control_share=0.2), InvalidNowAndThen())
    about = {
        'task': 'lift', 'policy_digest': 'b' * 64, 'catalogue_digest': CATALOGUE.digest,
        'model_digest': INFO.model_digest, 'fidelity': 'fast', 'horizon': 100, 'seed': 0}
    (out / SUSPICION_FILE).write_text(json.dumps(
        {'suspicion': asdict(SUSPICION), 'settings': about, 'versions': {}, 'command': ''}))
    return out


@pytest.fixture(scope='module')
def pool(sweep, tmp_path_factory):
    """Return the pool of the sweep, as it is read from its file."""
    path = tmp_path_factory.mktemp('pool') / 'pool.npz'
    make_pool(sweep, CATALOGUE, path)
    return load_pool(path)


def a_request(*names, seed=0, trial=0):
    """Return the request for a rollout under the perturbations of these names."""
    condition = Condition(tuple(CATALOGUE[name] for name in names))
    return RolloutRequest(f'{condition.label}/{seed}/{trial}', condition, seed, trial)


def test_it_keeps_the_sweep(sweep, pool):
    assert pool.names == ('nominal', *CATALOGUE.names) and pool.trials == 16
    with closing(sqlite3.connect(sweep / 'ledger.sqlite')) as database:
        rows = database.execute('SELECT condition, trial, verdict, steps FROM rollouts').fetchall()
    kept = [row for row in rows if row[1] < 16]
    assert len(kept) == 7 * 16 and len(rows) == 120
    for condition, trial, verdict, steps in kept:
        name = '+'.join(json.loads(condition)) or 'nominal'
        place = pool.names.index(name)
        assert pool.failed[place, trial] == (verdict == 'failure')
        assert pool.valid[place, trial] == (verdict != 'invalid')
        assert pool.steps[place, trial] == steps
        perturbed = Condition(() if name == 'nominal' else (CATALOGUE[name],))
        assert (pool.frames[place, trial] == a_picture(perturbed, trial)).all()
    assert len(pool.failures('red_cube')) == 12 and len(pool.failures('nominal')) == 16
    assert pool.settings['searcher'] == 'sweep' and pool.command == 'robomd diagnose'
    assert pool.versions == {'robomd_ros': '0.1.0'} and pool.created.startswith('20')
    assert pool.suspicion == SUSPICION


def test_the_file_is_the_pool(sweep, pool, tmp_path):
    made = make_pool(sweep, CATALOGUE, tmp_path / 'a.npz')
    again = load_pool(tmp_path / 'a.npz')
    assert made.digest == again.digest == pool.digest
    assert replace(pool, command='other').digest != pool.digest
    failed = pool.failed.copy()
    failed[0, 0] ^= True
    assert replace(pool, failed=failed).digest != pool.digest


def test_a_sweep_without_suspicion_makes_a_pool_without(sweep, tmp_path):
    (tmp_path / 'ledger.sqlite').write_bytes((sweep / 'ledger.sqlite').read_bytes())
    assert make_pool(tmp_path, CATALOGUE, tmp_path / 'pool.npz').suspicion is None
    runner = PoolRunner(load_pool(tmp_path / 'pool.npz'))
    with pytest.raises(RunnerError, match='The pool has no suspicion; run robomd suspect'):
        runner.deviations([a_request('red_cube').condition], 0)


def test_replaying_is_a_function_of_seed_and_trial(pool):
    names = [(), *((name,) for name in CATALOGUE.names)]
    requests = [a_request(*name, seed=seed, trial=trial)
                for name in names for seed in (0, 1) for trial in range(40)]
    runner = PoolRunner(pool)
    assert (runner.parallel, runner.horizon) == (1, 100)
    first = list(runner.run(requests))
    assert [result.request for result in first] == requests
    backwards = list(PoolRunner(pool).run(reversed(requests)))[::-1]
    for result, other in zip(first, backwards, strict=True):
        assert (result.outcome, result.steps) == (other.outcome, other.steps)
        assert (result.first_frame == other.first_frame).all()
    drawn = {}  # (seed, trial) -> recorded trial, by the picture, on which the cube's place is
    for result in first:
        place = pool.names.index(result.request.condition.label)
        same = [trial for trial in range(16)
                if (pool.frames[place, trial] == result.first_frame).all()]
        assert len(same) == 1
        key = result.request.seed, result.request.trial
        assert drawn.setdefault(key, same[0]) == same[0], 'not the same trial for all conditions'
        verdict = ('invalid' if not pool.valid[place, same[0]] else
                   'failure' if pool.failed[place, same[0]] else 'success')
        assert result.outcome.verdict == verdict
        assert result.steps == pool.steps[place, same[0]]
    assert set(drawn.values()) == set(range(16))
    assert [drawn[0, trial] for trial in range(40)] != [drawn[1, trial] for trial in range(40)]


def test_what_is_drawn_has_the_recorded_rate(pool):
    drawn = PoolRunner(pool).run(a_request('red_table', trial=trial) for trial in range(4000))
    rate = np.mean([result.outcome.verdict == 'failure' for result in drawn])
    recorded = np.mean(list(pool.failures('red_table').values()))
    assert 0.3 < recorded < 0.95 and abs(rate - recorded) < 0.03


def test_a_result_is_the_askers_own(pool):
    runner, request = PoolRunner(pool), a_request('red_table')
    result, = runner.run([request])
    before = result.first_frame.copy()
    result.first_frame[:] = 0
    assert (next(runner.run([request])).first_frame == before).all() and before.any()


def test_deviations_are_the_recorded_ones(pool):
    told = []
    conditions = [a_request(name).condition for name in CATALOGUE.names]
    found = PoolRunner(pool).deviations(conditions, 5, told.append)
    assert [each.translation for each in found] == list(SUSPICION.deviation.values())
    assert [each.gripper for each in found] == list(SUSPICION.gripper.values())
    assert {(each.states, each.rollouts) for each in found} == {(35, 4)}
    assert told == [1, 2, 3, 4, 5, 6]


def test_stacked_conditions_are_refused(pool):
    request = a_request('red_cube', 'red_table')
    with pytest.raises(UserError, match=r'no rollout of red_cube\+red_table; it can only replay'):
        list(PoolRunner(pool).run([request]))
    with pytest.raises(UserError, match=r'no rollout of red_cube\+red_table; it can only replay'):
        PoolRunner(pool).deviations([request.condition], 0)


@pytest.mark.parametrize('content', [b'', b'no zip', b'PK\x03\x04' + bytes(40)])
def test_what_is_no_pool_is_refused(tmp_path, content):
    path = tmp_path / 'pool.npz'
    with pytest.raises(UserError, match='There is no pool of rollouts .*; make one'):
        load_pool(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match='is damaged or not a pool of rollouts'):
        load_pool(path)


def test_other_arrays_are_no_pool(tmp_path, pool):
    path = tmp_path / 'pool.npz'
    np.savez(path, numbers=np.zeros(3))
    with pytest.raises(UserError, match='not a pool of rollouts'):
        load_pool(path)
    with path.open('wb') as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(UserError, match='not a pool of rollouts'):
        load_pool(path)
    np.savez(path, about=np.array([{'format': 1}], object))  # unpickles nothing
    with pytest.raises(UserError, match='not a pool of rollouts'):
        load_pool(path)
    for wrong in ({'failed': pool.failed[:, 1:]}, {'steps': pool.steps[1:]},
                  {'valid': pool.valid.astype(int)}, {'frames': pool.frames[:, :, 1:]},
                  {'names': pool.names[1:]}):
        replace(pool, **wrong).save(path)
        with pytest.raises(UserError, match='not a pool of rollouts .arrays that do not fit'):
            load_pool(path)
    whole = tmp_path / 'whole.npz'
    pool.save(whole)
    path.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(UserError, match='is damaged or not a pool'):
        load_pool(path)


def test_only_a_sweep_makes_a_pool(tmp_path):
    with pytest.raises(UserError, match='There is no ledger .*; name the folder'):
        read_sweep(tmp_path)
    (tmp_path / 'ledger.sqlite').write_text('no database, but long enough to look at')
    with pytest.raises(UserError, match='cannot be read as a ledger'):
        read_sweep(tmp_path)
    out = tmp_path / 'ppo'
    a_diagnosis(settings(out), CoinRunner())
    with closing(sqlite3.connect(out / 'ledger.sqlite')) as database, database:
        database.execute("UPDATE run SET settings = replace(settings, '\"sweep\"', '\"ppo\"')")
    with pytest.raises(UserError, match='holds a diagnosis with the searcher ppo; name one'):
        read_sweep(out)


def test_a_pool_is_of_one_whole_catalogue(sweep, tmp_path):
    other = replace(CATALOGUE, digest='d' * 64)
    with pytest.raises(UserError, match='are of another catalogue than /catalogue.yaml; give'):
        make_pool(sweep, other, tmp_path / 'pool.npz')
    short = tmp_path / 'short'
    a_diagnosis(settings(short, rollouts=6), CoinRunner())
    with pytest.raises(UserError, match='have no valid one of .*; record a sweep with more'):
        make_pool(short, CATALOGUE, tmp_path / 'pool.npz')
    assert not (tmp_path / 'pool.npz').exists()


def test_the_recorded_pool_of_lift():
    pool = load_pool(ROOT / 'benchmarks' / 'pools' / 'builtin_lift.npz')
    pool.check(load_catalogue(ROOT / 'config' / 'catalogues' / 'lift.yaml'))
    assert pool.trials == 100 and pool.valid.all() and len(pool.names) == 22
    assert pool.settings['policy'] == 'builtin:lift' and pool.settings['seed'] == 0
    assert pool.versions['robosuite'] == '1.5.2' and pool.versions['mujoco'] == '3.9.0'
    assert not pool.failures('nominal')[0] and all(pool.failures('small_cube').values())
    assert pool.suspicion is not None
    assert pool.suspicion.deviation.keys() == set(pool.names) - {'nominal'}
