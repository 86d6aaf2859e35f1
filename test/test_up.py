# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd up`: the whole graph from start to end, and what is left when any of it is killed."""

import fcntl
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import puppet
import pytest
from robomd_ros.ros import shared_memory

ROLLOUTS = 125  # 20 of the nominal scene and five sweeps over the catalogue
PROCESSES = ('perturbation_manager', 'success_detector', 'diagnoser', 'policy_executor_0',
             'diagnose', 'up')


class Up:
    """`robomd up` in a process of its own; the processes it has started are kept by name."""

    def __init__(self, given):
        words = [word for item in given.items() for word in ('--{}={}'.format(*item),)]
        self.out = given['out']
        self.popen = subprocess.Popen(
            [sys.executable, '-m', 'robomd_ros.cli', 'up', *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={name: value for name, value in os.environ.items() if name != 'ROS_DOMAIN_ID'})
        self.processes = {'up': psutil.Process(self.popen.pid)}

    def rows(self):
        """Return what the ledger has of every rollout that has ended."""
        try:
            name = f'{(self.out / "ledger.sqlite").as_uri()}?mode=ro'
            with sqlite3.connect(name, uri=True) as ledger:
                return set(ledger.execute(
                    'SELECT key, verdict, begun, ended, executor FROM rollouts WHERE ended > 0'))
        except sqlite3.OperationalError:  # there is none yet
            return set()

    def wait_for(self, rollouts):
        """Wait until so many more rollouts have ended."""
        wanted = len(self.rows()) + rollouts
        limit = time.monotonic() + 60
        while len(self.rows()) < wanted:
            assert self.popen.poll() is None, self.popen.stdout.read()
            assert time.monotonic() < limit
            time.sleep(0.05)
        for process in self.processes['up'].children():
            name, = (word.removeprefix('__node:=') for word in process.cmdline()
                     if word.startswith('__node:='))
            self.processes[name] = process

    def end(self, seconds=60):
        """Wait for the end and return exit code and output; nothing may be left running."""
        output, _ = self.popen.communicate(timeout=seconds)
        _, alive = psutil.wait_procs(self.processes.values(), timeout=3)
        assert not alive
        return self.popen.returncode, output


@pytest.fixture(autouse=True)
def nobody_stays():
    yield
    for process in psutil.Process().children(recursive=True):
        process.kill()


def test_whatever_is_killed_nothing_is_lost(tmp_path):
    given = puppet.arguments(tmp_path, rollouts=ROLLOUTS)
    puppet.say(tmp_path, 'slow')
    before = set()
    for name in PROCESSES:
        up = Up(given)
        up.wait_for(3)
        up.processes[name].send_signal(signal.SIGKILL)
        code, output = up.end()
        if name == 'up':
            assert code == -signal.SIGKILL
        else:
            assert code == 1
            says = f'{name} died of SIGKILL, so the diagnosis stops.' in output
            assert says == (name != 'diagnose')
        assert 'Traceback' not in output
        after = up.rows()
        assert before < after and len(after) < ROLLOUTS  # nothing lost, nothing run twice
        before = after
    puppet.say(tmp_path, '')
    code, output = Up(given).end()
    assert code == 0, output
    rows = up.rows()
    assert before < rows
    expected = {f'control/{trial}' for trial in range(20)} | {
        f'sweep/{p["name"]}/{trial}' for trial in range(5) for p in json.loads(
            (tmp_path / 'out' / 'failure_map.json').read_text())['perturbations']}
    assert len(rows) == ROLLOUTS and {row[0] for row in rows} == expected


def test_a_whole_diagnosis_with_two_executors(tmp_path):
    tmp_path = tmp_path / "it's: #ä  [1]"
    tmp_path.mkdir()
    given = puppet.arguments(tmp_path, rollouts=62, executors=2, control_share=0,
                             confirm_share='0')
    up = Up(given)
    code, output = up.end(90)
    assert code == 0, output
    found = json.loads((tmp_path / 'out' / 'failure_map.json').read_text())
    assert found['budget'] == {'asked': 62, 'done': 62, 'invalid': 0}
    assert found['settings']['control_share'] == found['settings']['confirm_share'] == 0.0
    assert found['nominal']['n'] == 20  # at least
    assert [row['n'] for row in found['perturbations']] == [2] * 21
    assert {row[4] for row in up.rows()} == {'policy_executor_0', 'policy_executor_1'}
    assert shlex.split(found['command']) == [
        'robomd', 'up', '--task', 'lift', '--policy', given['policy'], '--searcher', 'sweep',
        '--rollouts', '62', '--seed', '0', '--control_share', '0.0', '--confirm_share', '0.0',
        '--stop', 'budget', '--settle_top', '5', '--settle_within', '0.2', '--reward', 'paper',
        '--max_perturbations', '5', '--executors', '2', '--out', str(tmp_path / 'out'),
        '--horizon', '5', '--fidelity', 'fast']
    for line in (f'Failure map: {tmp_path}/out/failure_map.json',
                 f'Report:      {tmp_path}/out/report.html'):
        assert line in output.splitlines()
    assert '<html' in (tmp_path / 'out' / 'report.html').read_text()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_says_how_to_go_on(tmp_path, number):
    puppet.say(tmp_path, 'slow')
    up = Up(puppet.arguments(tmp_path, rollouts=ROLLOUTS))
    up.wait_for(1)
    up.popen.send_signal(number)
    code, output = up.end(20)
    assert code == 1
    assert output.splitlines()[-1] == (
        f'Stopped after {len(up.rows())} of {ROLLOUTS} rollouts; '
        'the same command goes on from here.')
    assert 'Traceback' not in output


def test_a_policy_that_cannot_be_loaded_ends_it(tmp_path):
    code, output = Up(puppet.arguments(tmp_path, policy='python:nowhere.py:make')).end()
    assert code == 2
    assert '[policy_executor_0] FATAL: ' in output and 'nowhere.py' in output
    assert 'policy_executor_0 exited with code 2, so the diagnosis stops.' in output
    assert 'Traceback' not in output


def test_a_policy_that_only_misbehaves_ends_it(tmp_path):
    puppet.say(tmp_path, 'nan later')
    up = Up(puppet.arguments(tmp_path, rollouts=22))
    code, output = up.end()
    assert code == 2
    assert output.splitlines()[-1].startswith('Three rollouts in a row were invalid')
    assert {(row[0], row[1]) for row in up.rows()} == {
        ('control/0', 'failure'), ('sweep/red_cube/0', 'invalid'),
        ('control/1', 'invalid'), ('sweep/green_cube/0', 'invalid')}


def test_what_is_wrong_at_once_starts_nothing(tmp_path):
    began = time.monotonic()
    code, output = Up({'out': tmp_path, 'rollouts': 0}).end()
    assert (code, output) == (  # and says nothing else
        2, "robomd: rollouts must be a whole number from 1 to 1000000, not '0'.\n")
    assert time.monotonic() - began < 5


def test_what_is_dead_in_shared_memory_is_removed_and_nothing_else(tmp_path):
    dead, alive, port = 'fastrtps_0123456789abcdef', 'fastrtps_fedcba9876543210', 'fastrtps_port'
    gone = [dead, f'{dead}_el', f'{port}7650', f'sem.{port}7650_mutex', f'{port}7661_el',
            f'{port}7661', f'{port}7650_sl']
    stays = [alive, f'{alive}_el', f'{port}7900', f'{port}7900_sl', f'{port}7911',
             f'sem.{port}7911_mutex', 'sem.other', 'fastrtps_notes.txt']
    young = ['fastrtps_0000000000000000', 'fastrtps_0000000000000000_el']
    for name in (*gone, *stays, *young):
        (tmp_path / name).touch()
        if name not in young:
            os.utime(tmp_path / name, (0, 0))
    with open(tmp_path / f'{alive}_el') as one, open(tmp_path / f'{port}7900_sl') as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_SH)
        shared_memory.remove_dead(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*stays, *young}
    shared_memory.remove_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*stays[-2:], *young}
    shared_memory.remove_dead(tmp_path / 'nowhere')


def files_in_shared_memory(pattern='fastrtps_*'):
    return {path.name for path in shared_memory.FOLDER.glob(pattern)}


def test_the_shared_memory_of_a_killed_graph_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, '_YOUNG', 0.0)
    puppet.say(tmp_path, 'slow')
    others = files_in_shared_memory()
    up = Up(puppet.arguments(tmp_path, rollouts=ROLLOUTS))
    up.wait_for(1)
    mine = files_in_shared_memory() - others
    shared_memory.remove_dead()
    assert mine <= files_in_shared_memory() and mine
    up.wait_for(1)  # it goes on
    up.processes['up'].kill()
    up.end()
    assert mine & files_in_shared_memory('fastrtps_*_el')
    shared_memory.remove_dead()
    assert not mine & files_in_shared_memory()
