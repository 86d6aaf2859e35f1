# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The ledger that keeps all rollouts."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
import dataclasses
import json
import multiprocessing
import os
from pathlib import Path
import sqlite3
import threading
import time

from coin_runner import CATALOGUE, CoinRunner, HORIZON, killed_at_random
import numpy as np
import pytest
from robomd_ros.conditions import NOMINAL
from robomd_ros.rollouts import (
    Ledger,
    LedgeredRunner,
    LedgerError,
    OtherRunError,
    PolicyUnusable,
    RolloutRequest,
    RolloutResult,
    RunnerError,
)
from robomd_ros.rollouts.ledger import write_whole
from robomd_ros.worlds.protocol import Outcome

REQUEST = RolloutRequest('control/0', NOMINAL, 0, 0)
SETTINGS = {'task': 'lift', 'policy': 'builtin:lift', 'policy_digest': 'b' * 64,
            'catalogue_digest': 'a' * 64, 'searcher': 'ppo', 'rollouts': 100, 'seed': 0,
            'horizon': HORIZON, 'parallel': 2, 'model_digest': 'c' * 64, 'fidelity': 'fast'}
FIXED = SETTINGS.keys() - {'policy', 'rollouts'}


def a_ledger(out: Path, **settings) -> Ledger:
    """Open the ledger of a run."""
    return Ledger(out, SETTINGS | settings, FIXED, 'robomd diagnose', {'numpy': '1.26.4'})


def requests(number: int = 5, key: str = 'search') -> list[RolloutRequest]:
    """Return requests under conditions of two perturbations."""
    condition = CATALOGUE.condition(['red_table', 'blue_cube'])
    return [RolloutRequest(f'{key}/{trial}', condition, 0, trial, 'discovery', 0.25)
            for trial in range(number)]


def rows(out: Path, columns: str = 'key') -> list[tuple]:
    """Return what the file says, in the order in which rollouts were asked for."""
    with closing(sqlite3.connect(out / 'ledger.sqlite')) as database:
        return database.execute(f'SELECT {columns} FROM rollouts ORDER BY id').fetchall()


def test_what_has_ended_is_answered_as_it_was(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 3), np.uint8)
    request, = requests(1)
    outcome = Outcome('failure', 'why', 0.75, 'judge')
    ended = RolloutResult(request, outcome, 7, 0.5, *noise, 'left')
    with a_ledger(tmp_path) as ledger:
        ledger.begin(request)
        assert ledger.result(request) is None and ledger.condition(request.key) is None
        ledger.end(ended)
    with a_ledger(tmp_path) as ledger:
        known = ledger.result(request)
        assert ledger.condition(request.key) == ('blue_cube', 'red_table')
    pictures = ('first_frame', 'last_frame')
    for name in pictures:
        assert np.array_equal(getattr(known, name), getattr(ended, name))
    without = dict.fromkeys(pictures)
    assert dataclasses.replace(known, **without) == dataclasses.replace(ended, **without)


def test_row_says_all_there_is_to_say(tmp_path):
    before = time.time()
    with a_ledger(tmp_path) as ledger:
        list(LedgeredRunner(CoinRunner(), ledger).run(requests(1)))
    (asked, begun, ended), = rows(tmp_path, 'asked, begun, ended')
    assert before <= asked <= begun <= ended <= time.time()
    columns = ('key, condition, seed, trial, purpose, probability, executor, verdict, reason, '
               'source, steps, duration, policy_digest, model_digest, versions')
    assert rows(tmp_path, columns) == [(
        'search/0', '["blue_cube", "red_table"]', 0, 0, 'discovery', 0.25, 'coin', 'failure', '',
        'coin', HORIZON, 0.01, 'b' * 64, 'c' * 64, '{"numpy": "1.26.4"}')]


def test_file_survives_a_loss_of_power(tmp_path):
    with a_ledger(tmp_path) as ledger:
        assert ledger._execute('PRAGMA journal_mode') == [('wal',)]
        assert ledger._execute('PRAGMA synchronous') == [(2,)]  # FULL


def test_nothing_that_has_ended_is_run_again(tmp_path):
    with a_ledger(tmp_path) as ledger:
        list(LedgeredRunner(CoinRunner(), ledger).run(requests()[1::2]))
    runner = CoinRunner()
    with a_ledger(tmp_path) as ledger:
        results = list(LedgeredRunner(runner, ledger).run(requests()))
    assert sorted(result.request.key for result in results) == [f'search/{n}' for n in range(5)]
    assert sorted(runner.ran) == ['search/0', 'search/2', 'search/4']


def test_result_is_on_the_disk_when_it_is_yielded(tmp_path):
    with a_ledger(tmp_path) as ledger:
        for result in LedgeredRunner(CoinRunner(2), ledger).run(requests()):
            assert (result.request.key,) in rows(tmp_path, 'CASE WHEN ended THEN key END')


def test_rollout_begun_when_the_process_died_is_run_again_under_its_key(tmp_path):
    with a_ledger(tmp_path) as ledger:
        for request in requests(3):
            ledger.begin(request)
    assert rows(tmp_path, 'id, ended') == [(1, None), (2, None), (3, None)]
    with a_ledger(tmp_path) as ledger:
        list(LedgeredRunner(CoinRunner(), ledger).run(requests(3)))
    assert rows(tmp_path, 'id, key, ended > 0') == [
        (1, 'search/0', 1), (2, 'search/1', 1), (3, 'search/2', 1)]


def test_threads_share_a_ledger(tmp_path):
    with a_ledger(tmp_path) as ledger, ThreadPoolExecutor(4) as pool:
        runner = LedgeredRunner(CoinRunner(4), ledger)
        batches = [requests(10, f'ppo/{thread}') for thread in range(4)]
        ended = list(pool.map(lambda batch: len(list(runner.run(batch))), batches))
        assert ended == [10] * 4
        assert sum(ledger.tally().values()) == len(ledger.ends()) == 40


def test_key_names_one_rollout_only(tmp_path):
    request, = requests(1)
    with a_ledger(tmp_path) as ledger:
        runner = LedgeredRunner(CoinRunner(), ledger)
        result, = runner.run([request])
        for other in (dataclasses.replace(request, condition=NOMINAL),
                      dataclasses.replace(request, trial=9), dataclasses.replace(request, seed=9)):
            with pytest.raises(OtherRunError, match='another rollout as search/0'):
                list(runner.run([other]))
        with pytest.raises(LedgerError, match='already'):
            ledger.end(result)


@pytest.mark.parametrize('name, value', [
    ('policy_digest', 'f' * 64), ('model_digest', 'f' * 64), ('catalogue_digest', 'f' * 64),
    ('searcher', 'sweep'), ('seed', 1), ('fidelity', 'full'), ('horizon', 50), ('parallel', 1)])
def test_other_settings_are_refused(tmp_path, name, value):
    with a_ledger(tmp_path) as ledger:
        ledger.begin(REQUEST)
    spoken = 'number of executors' if name == 'parallel' else name
    with pytest.raises(OtherRunError, match=rf'another {spoken} \(.*, now .*another out'):
        a_ledger(tmp_path, **{name: value})
    a_ledger(tmp_path).close()


def test_settings_are_free_until_there_is_a_rollout(tmp_path):
    a_ledger(tmp_path).close()
    with a_ledger(tmp_path, seed=1, parallel=1, rollouts=50) as ledger:
        ledger.begin(REQUEST)
    a_ledger(tmp_path, seed=1, parallel=1, rollouts=50).close()
    with pytest.raises(OtherRunError, match='another'):
        a_ledger(tmp_path)


def test_only_more_rollouts_are_welcome(tmp_path):
    with a_ledger(tmp_path) as ledger:
        ledger.begin(REQUEST)
    a_ledger(tmp_path, rollouts=120, policy='another_name_for_the_same').close()
    with pytest.raises(OtherRunError, match='120 rollouts, more than 100'):
        a_ledger(tmp_path)


# What can be wrong with a directory or a file.

def test_out_that_cannot_be_written(tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    for out in (file, file / 'below', Path('/proc/robomd')):
        with pytest.raises(LedgerError, match=f'{out} cannot be written to .*another out'):
            a_ledger(out)


def test_files_that_are_no_ledger(tmp_path):
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as database:
        database.execute('CREATE TABLE recipes (name)')
    with pytest.raises(LedgerError, match='not a ledger'):
        a_ledger(tmp_path)
    (tmp_path / 'ledger.sqlite').write_text('dear diary ' * 1000)
    with pytest.raises(LedgerError, match='damaged or not a ledger.*another out'):
        a_ledger(tmp_path)


def test_damaged_ledger_is_noticed(tmp_path):
    with a_ledger(tmp_path) as ledger:
        list(LedgeredRunner(CoinRunner(), ledger).run(requests(40)))
    file = tmp_path / 'ledger.sqlite'
    data = bytearray(file.read_bytes())
    for page in range(8192, len(data), 8192):
        data[page:page + 16] = b'\xff' * 16
    file.write_bytes(data)
    with pytest.raises(LedgerError, match='damaged'):
        a_ledger(tmp_path)


def test_one_process_at_a_time(tmp_path):
    with a_ledger(tmp_path), pytest.raises(LedgerError, match=f'in use .*process {os.getpid()}'):
        a_ledger(tmp_path)
    a_ledger(tmp_path).close()


def test_full_disk_loses_nothing_that_has_ended(tmp_path):
    results = []
    with a_ledger(tmp_path) as ledger:
        pages = ledger._execute('PRAGMA page_count')[0][0]
        ledger._execute(f'PRAGMA max_page_count = {pages + 10}')
        with pytest.raises(LedgerError, match='the disk is full; make room'):
            results.extend(LedgeredRunner(CoinRunner(), ledger).run(requests(200)))
    ended = [key for key, ended in rows(tmp_path, 'key, ended') if ended]
    assert 0 < len(ended) < 200
    runner = CoinRunner()
    with a_ledger(tmp_path) as ledger:
        list(LedgeredRunner(runner, ledger).run(requests(200)))
    assert len(rows(tmp_path)) == 200 and not set(ended) & set(runner.ran)


def test_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / 'folder' / 'file'
    write_whole(file, b'old')

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(LedgerError, match='No space left on device'):
        write_whole(file, b'new')
    assert file.read_bytes() == b'old' and list(file.parent.iterdir()) == [file]


# Three invalid rollouts in a row.

class FaultyRunner(CoinRunner):
    """Has rollouts end as it is told: f fails, i is invalid, s is solved at reset."""

    def __init__(self, script: str) -> None:
        super().__init__()
        self._script = iter(script)

    def outcome(self, request, failed):
        """Return the next outcome."""
        return {'f': Outcome('failure'), 'i': Outcome('invalid', 'policy_returned_nan'),
                's': Outcome('invalid', 'solved_at_reset')}[next(self._script)]


def unusable_after(out: Path, script: str) -> int | None:
    """Return how many rollouts there were when the policy was given up, None if it was not."""
    before = len(rows(out)) if (out / 'ledger.sqlite').exists() else 0
    asked = [RolloutRequest(f'control/{n}', NOMINAL, 0, n)
             for n in range(before, before + len(script))]
    with a_ledger(out) as ledger:
        runner = LedgeredRunner(FaultyRunner(script), ledger)
        try:
            for request in asked:
                list(runner.run([request]))
        except PolicyUnusable as error:
            assert 'policy_returned_nan' in str(error) and isinstance(error, RunnerError)
            return len(rows(out)) - before
    return None


@pytest.mark.parametrize('script, rollouts', [
    ('iiif', 3), ('fiiif', 4), ('iifiif', None), ('isisif', 5), ('ssssss', None), ('iisf', None)])
def test_three_in_a_row(tmp_path, script, rollouts):
    assert unusable_after(tmp_path, script) == rollouts
    assert all(ended for ended, in rows(tmp_path, 'ended')[:rollouts])


def test_three_in_a_row_over_two_sessions(tmp_path):
    assert unusable_after(tmp_path, 'fii') is None
    assert unusable_after(tmp_path, 'iff') == 1  # the third
    assert unusable_after(tmp_path, 'iff') == 1  # nothing was mended
    assert unusable_after(tmp_path, 'fii') is None
    assert unusable_after(tmp_path, 'sfi') is None


# Killed at any moment.

def run_until_killed(out: Path, log: Path) -> None:
    """Run 150 rollouts, each of which writes its key to the log as it begins."""
    with a_ledger(out) as ledger:
        runner = LedgeredRunner(CoinRunner(2, log=log, seconds=0.005), ledger)
        for _ in runner.run(requests(150)):
            pass


def test_killed_at_any_moment_nothing_is_lost_or_run_twice(tmp_path):
    log = tmp_path / 'log'
    ended_before: set[str] = set()
    for run in killed_at_random(run_until_killed, tmp_path, log, 6, 0.08):
        ended = {key for key, ended in rows(tmp_path, 'key, ended') if ended}
        assert ended_before <= ended and not ended_before & set(run)
        assert len(set(run) - ended) <= 1  # the one that was running
        ended_before = ended
    assert ended_before
    run_until_killed(tmp_path, log)
    columns = 'key, trial, condition, verdict, steps'
    killed = rows(tmp_path, columns)
    assert len({key for key, *_ in killed}) == len(killed) == 150
    run_until_killed(tmp_path / 'whole', log)
    assert sorted(killed) == sorted(rows(tmp_path / 'whole', columns))


def hold(out: Path, ready) -> None:
    """Hold the ledger for ever."""
    with a_ledger(out):
        ready.set()
        threading.Event().wait()


def test_kernel_unlocks_the_ledger_of_a_killed_process(tmp_path):
    context = multiprocessing.get_context('forkserver')
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(LedgerError, match=f'process {process.pid}'):
        a_ledger(tmp_path)
    process.kill()
    process.join()
    a_ledger(tmp_path).close()
    assert json.loads((tmp_path / 'ledger.lock').read_text()) == os.getpid()
