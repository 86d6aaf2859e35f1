# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command line: what it does, and one sentence with exit code 2 for what it cannot use."""

from contextlib import closing
import json
import os
from pathlib import Path
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from robomd_ros.cli import main
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy

POLICY = Path(__file__).with_name('cli_policies.py')


def refused(capsys, *words):
    """Return the one sentence with which the command ends; it wrote nothing else."""
    assert main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    sentence, = err.strip().splitlines()
    assert sentence.startswith('robomd: ') and sentence.endswith('.') and not out
    return sentence


@pytest.mark.parametrize('option, value, words', [
    ('task', 'juggle', ['juggle', 'lift']),
    ('searcher', 'magic', ['magic', 'ppo', 'sweep']),
    ('policy', 'magic', ['magic', 'robomimic:PATH']),
    ('policy', 'builtin:nothing', ['builtin:nothing', 'builtin:lift']),
    ('policy', 'robomimic:/nowhere/x.pth', ['/nowhere/x.pth']),
    ('rollouts', '0', ['rollouts', '0']),
    ('rollouts', 'many', ['rollouts', 'many']),
    ('seed', '-1', ['seed', '-1']),
    ('catalogue', '/nowhere/c.yaml', ['/nowhere/c.yaml']),
    ('fidelity', 'pretty', ['pretty', 'full', 'fast']),
    ('out', '/proc/nothing', ['/proc']),
    ('out', '/etc/passwd', ['/etc/passwd']),
    ('horizon', '-5', ['horizon'])])
def test_bad_input_is_refused_in_one_sentence(capsys, tmp_path, option, value, words):
    given = {'out': tmp_path / 'out', option: value}
    sentence = refused(capsys, 'diagnose', *(
        word for name, text in given.items() for word in (f'--{name}', text)))
    assert all(word in sentence for word in words), sentence


def test_a_malformed_catalogue_is_named_with_its_line(capsys, tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('task: lift\nperturbations:\n  - name: red_cube\n    slot: cube.colour\n'
                    '    value: [1, 0, 0]\n    sentence: Change cube color to red\n')
    assert f'{path}, line 4' in refused(capsys, 'diagnose', '--catalogue', path, '--out', tmp_path)


def test_a_part_that_the_model_lacks_is_refused_before_anything_is_run(capfd, tmp_path):
    path = tmp_path / 'c.yaml'
    path.write_text('task: lift\nperturbations:\n  - name: ghost\n    slot: body:ghost.color\n'
                    '    value: [1, 0, 0]\n    sentence: Paint the ghost\n')
    assert main(['diagnose', '--catalogue', str(path), '--searcher', 'sweep', '--rollouts', '2',
                 '--horizon', '5', '--out', str(tmp_path / 'out')]) == 2
    assert f'{path}, line 3: ' in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / 'out' / 'ledger.sqlite').exists()


def test_diagnose_writes_map_and_report_and_goes_on_from_there(capfd, tmp_path):
    words = ['diagnose', '--searcher', 'sweep', '--rollouts', '23', '--horizon', '6',
             '--out', str(tmp_path)]
    assert main(words) == 0
    found = json.loads((tmp_path / 'failure_map.json').read_text())
    assert found['budget'] == {'asked': 23, 'done': 23, 'invalid': 0}
    assert found['nominal']['n'] == 11
    assert sorted(r['n'] for r in found['perturbations']) == [0] * 9 + [1] * 12
    assert found['settings']['fidelity'] == 'fast' and found['settings']['renderer'] == 'egl'
    assert found['versions']['robosuite'] == '1.5.2' and 'robomd diagnose' in found['command']
    page = (tmp_path / 'report.html').read_text()
    assert page.count('<img') >= 22
    out = capfd.readouterr().out
    assert 'red_table' in out and str(tmp_path / 'report.html') in out
    assert main(words) == 0
    assert 'has ended before. All rollouts that were' in capfd.readouterr().out
    assert json.loads((tmp_path / 'failure_map.json').read_text()) == found
    assert main([*words[:-1], str(tmp_path), '--seed', '1']) == 2
    assert 'seed' in capfd.readouterr().err
    assert main(['report', str(tmp_path)]) == 0


@pytest.mark.parametrize('factory, code, words', [
    ('nan_now_and_then', 0, []),
    ('nan_from_the_third_step', 2, ['three', 'policy_returned_nan']),
    ('wrong_shape_from_the_third_step', 2, ['policy_returned_shape']),
    ('raises_from_the_third_step', 2, ['policy_raised', 'ValueError'])])
def test_a_policy_that_misbehaves(capfd, tmp_path, factory, code, words):
    assert main(['diagnose', '--searcher', 'sweep', '--rollouts', '8', '--horizon', '6',
                 '--policy', f'python:{POLICY}:{factory}', '--out', str(tmp_path)]) == code
    found = json.loads((tmp_path / 'failure_map.json').read_text())
    if code == 0:
        assert found['budget']['done'] == 8 and 0 < found['budget']['invalid'] < 8
        assert found['invalid_reasons'] == {'policy_returned_nan': found['budget']['invalid']}
    else:
        assert found['budget']['invalid'] == found['budget']['done'] == 3
        sentence = capfd.readouterr().err.strip().splitlines()[-1].lower()
        assert all(word.lower() in sentence for word in words), sentence


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    """A file system of 300 kB takes the ledger and a few rollouts, then no more."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', disk])
    if mounted.returncode:
        pytest.skip('file systems cannot be mounted here')
    try:
        words = [sys.executable, '-m', 'robomd_ros.cli', 'diagnose', '--searcher', 'sweep',
                 '--rollouts', '40', '--horizon', '4', '--out', str(disk / 'out')]
        ended = subprocess.run(words, capture_output=True, text=True)
        assert ended.returncode == 2, ended.stderr
        assert 'full' in ended.stderr.splitlines()[-1] and 'Traceback' not in ended.stderr
        subprocess.run(['mount', '-o', 'remount,size=40m', disk], check=True)
        ended = subprocess.run(words, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    finally:
        subprocess.run(['umount', disk], check=True)


def test_evaluate_says_rate_and_interval(capsys, tmp_path):
    path = tmp_path / 'rate.json'
    assert main(['policy', 'evaluate', '--condition', 'red_table', '--trials', '3',
                 '--horizon', '10', '--out', str(path)]) == 0
    assert 'red_table: 0 of 3 rollouts succeeded, 0.0% (95% Wilson interval 0.0 to 56.' in (
        capsys.readouterr().out)
    assert json.loads(path.read_text())['condition'] == ['red_table']


def test_evaluate_without_a_valid_rollout_has_no_rate(capsys):
    assert main(['policy', 'evaluate', '--trials', '2', '--horizon', '6', '--policy',
                 f'python:{POLICY}:nan_from_the_third_step']) == 1
    out, err = capsys.readouterr()
    assert not out and err.strip().splitlines()[-1].endswith(
        'no rollout was valid (2 for policy_returned_nan), so there is no success rate.')


@pytest.mark.parametrize('command', ['evaluate', 'train'])
def test_out_that_cannot_be_written_is_refused_at_once(capsys, tmp_path, command):
    folder = tmp_path / 'folder.safetensors'
    folder.mkdir()
    for out in (folder, Path('/proc/nothing.safetensors'), folder / 'new' / 'x.safetensors'):
        (folder / 'new').touch()
        words = ['policy', command, '--trials', '1', '--out', out]
        assert '--out' in refused(capsys, *words) and not (folder / 'new').is_dir()
    (tmp_path / 'half.json').mkdir()
    if command == 'train':
        assert 'half.json' in refused(
            capsys, 'policy', 'train', '--out', tmp_path / 'half.safetensors')
        assert not (tmp_path / 'half.safetensors').exists()


def test_policy_that_cannot_be_saved_is_one_sentence(tmp_path):
    policy = load_policy('builtin:lift', 'lift')
    with pytest.raises(UserError, match='cannot be written .*irectory'):
        policy.save(tmp_path, {})


def started(*words):
    """Start the command; it is at its rollouts once it has shown its bar."""
    process = subprocess.Popen([sys.executable, '-m', 'robomd_ros.cli', *map(str, words)],
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown = ''
    while 'rollout/s' not in shown and 's/rollout' not in shown:
        letter = process.stderr.read(1)
        assert letter, shown
        shown += letter
    return process


def interrupted(process, number=signal.SIGINT):
    """Send the signal and return the exit code and the last line."""
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert 'Traceback' not in err, err
    return process.returncode, err.strip().splitlines()[-1]


def test_stopped_at_any_moment_nothing_false_is_kept(tmp_path):
    words = ['diagnose', '--searcher', 'sweep', '--rollouts', '30', '--out', tmp_path]
    ended = 0
    for seconds, number in ((0.0, signal.SIGINT), (0.7, signal.SIGTERM), (1.3, signal.SIGINT)):
        process = started(*words)
        time.sleep(seconds)
        assert interrupted(process, number) == (
            128 + number, 'robomd: stopped; what was measured is kept, and the same command goes '
            'on from here.')
        found = json.loads((tmp_path / 'failure_map.json').read_text())
        assert ended <= found['budget']['done'] < 30 and not found['budget']['invalid']
        ended = found['budget']['done']
    assert main(list(map(str, words))) == 0
    with closing(sqlite3.connect(tmp_path / 'ledger.sqlite')) as database:
        assert database.execute(
            'SELECT count(*), count(ended), sum(verdict = "invalid") FROM rollouts'
        ).fetchone() == (30, 30, 0)


def test_a_stopped_evaluation_does_not_promise_to_go_on(tmp_path):
    out = tmp_path / 'rate.json'
    process = started('policy', 'evaluate', '--trials', '500', '--out', out)
    assert interrupted(process) == (130, 'robomd: stopped.')
    assert not out.exists()


def test_signals_are_left_to_whom_they_were_left_before():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(['report', '/nowhere']) == 2
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize('words, word', [
    (['policy', 'evaluate', '--horizon', '-5'], 'horizon'),
    (['policy', 'evaluate', '--seed', str(2**31)], 'seed'),
    (['policy', 'train', '--seed', str(2**31)], 'seed'),
    (['policy', 'evaluate', '--condition', 'purple_rain'], 'purple_rain'),
    (['policy', 'evaluate', '--trials', '0'], 'trials'),
    (['policy', 'train', '--task', 'juggle'], 'juggle'),
    (['policy', 'train', '--out', 'policy.zip'], '.safetensors'),
    (['report', '/nowhere'], '/nowhere'),
    (['up', '--searcher', 'magic'], 'magic'),
    (['up', '--executors', '0'], 'executors')])
def test_other_commands_refuse_too(capsys, words, word):
    assert word in refused(capsys, *words)


@pytest.mark.parametrize('words', [[], ['diagnose'], ['up'], ['report'], ['policy'],
                                   ['policy', 'train'], ['policy', 'evaluate']])
def test_help_teaches(words):
    shown = subprocess.run([sys.executable, '-m', 'robomd_ros.cli', *words, '--help'], text=True,
                           capture_output=True, check=True, env={**os.environ, 'COLUMNS': '100'})
    assert 'usage: robomd' in shown.stdout and not shown.stderr
    if words not in ([], ['policy']):
        assert 'Example: robomd' in shown.stdout
