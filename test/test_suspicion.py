# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Suspicion: its file, its table and figure, and its command."""

from dataclasses import replace
import io
import json
import math
from pathlib import Path

from coin_runner import a_diagnosis, CATALOGUE, CoinRunner, read_map, settings
import pytest
from robomd_ros.cli import main, suspect
from robomd_ros.conditions import load_catalogue
from robomd_ros.diagnosis.suspicion import measure_suspicion, read_suspicion, Suspicion
from robomd_ros.reports.suspicion import COLORS, kind, suspicion_png, suspicion_table

LIFT = load_catalogue(Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml')

# suspicion.json

SETTINGS = {'task': 'lift', 'policy_digest': 'b' * 64, 'catalogue_digest': CATALOGUE.digest,
            'model_digest': 'c' * 64, 'fidelity': 'fast', 'horizon': 100, 'seed': 0}


def test_the_file_answers_for_the_same_policy_and_for_no_other(tmp_path):
    out = tmp_path / 'new'
    assert read_suspicion(out, CATALOGUE, SETTINGS) is None
    told = []
    found = measure_suspicion(out, CATALOGUE, CoinRunner(), SETTINGS | {'rollouts': 9},
                              {'mujoco': '3'}, 'robomd suspect', told.append)
    assert told == [1, 2, 3, 4, 5, 6] and tuple(found.deviation) == CATALOGUE.names
    assert max(found.deviation, key=found.deviation.get) == 'green_table'
    assert read_suspicion(out, CATALOGUE, SETTINGS) == found
    for name, value in SETTINGS.items():
        other = value + 1 if isinstance(value, int) else f'{value}!'
        assert read_suspicion(out, CATALOGUE, SETTINGS | {name: other}) is None
    content = json.loads((out / 'suspicion.json').read_text())
    assert (content['versions'], content['command']) == ({'mujoco': '3'}, 'robomd suspect')
    assert content['settings'] == SETTINGS
    (out / 'suspicion.json').write_text('{')
    assert read_suspicion(out, CATALOGUE, SETTINGS) is None


class SilentRunner(CoinRunner):
    """Of a policy that gives no action under green_table."""

    def deviations(self, conditions, seed, on_progress=lambda done: None):
        return [
            replace(each, translation=math.nan, gripper=math.nan)
            if condition.names == ('green_table',) else each
            for condition, each in zip(
                conditions, super().deviations(conditions, seed, on_progress), strict=True)]


def test_where_the_policy_gives_no_action_the_file_has_null(tmp_path):
    found = measure_suspicion(tmp_path, CATALOGUE, SilentRunner(), SETTINGS, {}, '')

    def refuse(literal):
        raise AssertionError(literal)

    text = (tmp_path / 'suspicion.json').read_text()
    content = json.loads(text, parse_constant=refuse)['suspicion']
    assert content['deviation']['green_table'] is content['gripper']['green_table'] is None
    again = read_suspicion(tmp_path, CATALOGUE, SETTINGS)
    assert math.isnan(again.deviation['green_table']) and math.isnan(again.gripper['green_table'])
    assert again.to_dict() == found.to_dict() == content
    assert list(content['deviation'].values()).count(None) == 1
    for broken in (5, None, {'deviation': 5}, {**content, 'gripper': []}):
        changed = json.loads(text) | {'suspicion': broken}
        (tmp_path / 'suspicion.json').write_text(json.dumps(changed))
        assert read_suspicion(tmp_path, CATALOGUE, SETTINGS) is None


@pytest.mark.parametrize('searcher', ['gp', 'thompson'])
def test_a_change_without_an_action_does_not_stop_the_search(tmp_path, searcher):
    found = a_diagnosis(settings(tmp_path, searcher=searcher, rollouts=40), SilentRunner())
    assert found.stopped and found.budget['done'] == 40
    told = {row.name: row.suspicion for row in found.perturbations}
    assert told.pop('green_table') is None and None not in told.values()
    assert read_map(tmp_path) == found


# What people are shown

FOUND = Suspicion(
    {name: number / 4 for number, name in enumerate(LIFT.names)},
    {name: number / 8 for number, name in enumerate(LIFT.names)}, 35, 4)


def test_the_table_is_ranked_and_says_what_it_is():
    lines = suspicion_table(FOUND, LIFT, 'lift, policy builtin:lift').splitlines()
    assert max(map(len, lines)) <= 96
    names = [line.split()[0] for line in lines if '_' in line.split(' ')[0]]
    assert names == list(LIFT.names[::-1])
    first = next(line for line in lines if line.startswith(names[0]))
    assert first.split()[1:4] == [LIFT[names[0]].slot, '5.000', '2.500']
    assert first.count('█') == max(line.count('█') for line in lines) > 10
    text = ' '.join(lines)
    assert '35 states of 4 nominal rollouts' in text and 'neither is a failure rate' in text
    assert 'changes of size, friction and mass can move the actions little and still fail' in text


@pytest.mark.parametrize('found', [FOUND, Suspicion(
    dict.fromkeys(LIFT.names, 0.0), dict.fromkeys(LIFT.names, 0.0), 1, 1)])
def test_the_figure_is_a_picture_with_the_kinds_colours(found):
    from matplotlib import colors, image

    picture = image.imread(io.BytesIO(suspicion_png(found, LIFT, 'lift')))[..., :3]
    assert picture.shape[0] > 600 and picture.shape[1] > 1000
    assert {kind(perturbation) for perturbation in LIFT} == {'colour', 'light', 'size'}
    for each in ('colour', 'light', 'size'):
        assert (abs(picture - colors.to_rgb(COLORS[each])).max(axis=2) < 0.01).any()
    suspicion_table(found, LIFT, 'lift')


NONE_AT = {LIFT.names[0], LIFT.names[-1]}
SOME = replace(FOUND, **{
    part: {name: math.nan if name in NONE_AT else value for name, value in values.items()}
    for part, values in (('deviation', FOUND.deviation), ('gripper', FOUND.gripper))})
NONE = replace(FOUND, **{part: dict.fromkeys(LIFT.names, math.nan)
                         for part in ('deviation', 'gripper')})


def test_where_there_is_no_action_a_dash_comes_last_and_says_why():
    lines = suspicion_table(SOME, LIFT, 'lift').splitlines()
    rows = [line.split() for line in lines if '_' in line.split(' ')[0]]
    assert [row[0] for row in rows] == [*LIFT.names[-2:0:-1], *sorted(NONE_AT)]
    assert [row[2:] for row in rows[-2:]] == [['–', '–']] * 2
    assert rows[0][2] == '4.750' and '█' in rows[0][4]
    assert '–: the policy gives no action there.' in lines and 'nan' not in ' '.join(lines)
    assert 'gives no action' not in suspicion_table(FOUND, LIFT, 'lift')
    assert suspicion_table(NONE, LIFT, 'lift').count('–  ') >= len(LIFT)


@pytest.mark.parametrize(('found', 'silent'), [(SOME, 2), (NONE, len(LIFT.names)), (FOUND, 0)])
def test_the_figure_says_where_there_is_no_action(monkeypatch, found, silent):
    from matplotlib.axes import Axes

    said, text = [], Axes.text
    monkeypatch.setattr(
        Axes, 'text', lambda self, x, y, words, **how: (
            said.append(words), text(self, x, y, words, **how))[1])
    assert suspicion_png(found, LIFT, 'lift').startswith(b'\x89PNG')
    assert len(said) == len(LIFT)
    expected = ' – the policy gives no action there'
    assert [place for place, words in enumerate(said) if words == expected] == list(
        range(len(LIFT) - silent, len(LIFT)))


POLICIES = f'python:{Path(__file__).with_name("cli_policies.py")}'


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Return what runs `robomd suspect` on two perturbations and returns its exit code."""
    monkeypatch.setattr('robomd_ros.cli._COMMANDS', (suspect,))
    catalogue = tmp_path / 'two.yaml'
    catalogue.write_text(
        'task: lift\nperturbations:\n'
        '  - {name: red, slot: robot.color, value: [1, 0, 0], sentence: Paint the robot}\n'
        '  - {name: gray, slot: table.color, value: [0.7, 0.7, 0.7], sentence: Paint the table}\n')

    def run(*words):
        return main(['suspect', '--catalogue', str(catalogue), '--fidelity', 'fast', '--out',
                     str(tmp_path / 'out'), *words])
    return run


def test_the_command_measures_once_and_shows(command, tmp_path, capsys):
    assert command() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if '.color' in line] == ['red', 'gray']
    path = tmp_path / 'out' / 'suspicion.json'
    content = json.loads(path.read_text())
    assert content['command'].startswith('robomd suspect --catalogue ')
    assert (tmp_path / 'out' / 'suspicion.png').read_bytes().startswith(b'\x89PNG')
    content['suspicion']['deviation']['gray'] = 9.0
    path.write_text(json.dumps(content))
    assert command() == 0  # and says what the file does, having measured nothing
    assert '9.000' in capsys.readouterr().out
    assert command('--seed', '1') == 0
    assert '9.000' not in capsys.readouterr().out
    assert json.loads(path.read_text())['settings']['seed'] == 1


@pytest.mark.parametrize(('words', 'why'), [
    (['--policy', f'{POLICIES}:nan_from_the_third_step'], '(policy_returned_nan);'),
    (['--seed', '-1'], '--seed must be from 0 to 2147483647, not -1.'),
    (['--catalogue', '/nowhere.yaml'], 'There is no catalogue /nowhere.yaml'),
    (['--out', '/dev/null/out'], 'cannot be written')])
def test_what_is_given_wrong_is_one_sentence(command, capsys, words, why):
    assert command(*words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('robomd: ') and why in last
