# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The gate of continuous tests: new failure modes, JUnit XML, exit codes."""

from collections.abc import Callable
from dataclasses import replace
import math
from types import SimpleNamespace
from xml.etree import ElementTree

from coin_runner import a_diagnosis, CATALOGUE, CoinRunner, INFO, settings
from junitparser import Failure, JUnitXml, Skipped
import pytest
from robomd_ros import policies, reports, rollouts, up
from robomd_ros.cli import main
from robomd_ros.conditions import Perturbation
from robomd_ros.diagnosis.ppo import PAPER as PPO
from robomd_ros.diagnosis.reading import read_diagnosis
from robomd_ros.diagnosis.regression import new_modes, read_baseline, Verdict, verdicts
from robomd_ros.errors import UserError
from robomd_ros.reports.junit import write_junit
from robomd_ros.worlds import mujoco_world


class Rigged(CoinRunner):
    """Tosses coins, but where a condition's label has a rule: whether its trial fails."""

    def __init__(self, **rules: Callable[[int], bool]) -> None:
        super().__init__()
        self._rules = rules

    def outcome(self, request, failed):
        rule = self._rules.get(request.condition.label)
        return super().outcome(request, rule(request.trial) if rule else failed)


def always(trial):
    return True


def diagnosed(out, runner=None, number=200, seed=0, **given):
    """Return a sweep: of 200 rollouts, 30 are of each perturbation and 20 of nominal."""
    a_diagnosis(settings(out, rollouts=number, seed=seed), runner or CoinRunner(), **given)
    return read_diagnosis(out)


def judged(found, baseline):
    """Return the verdicts by name."""
    return {each.name: each for each in verdicts(found, baseline)}


def failed(found, baseline):
    """Return the names of what has failed the gate."""
    return [each.name for each in new_modes(found, baseline)]


@pytest.fixture(scope='module')
def baseline(tmp_path_factory):
    """Return a baseline, in which red and green tables are failure modes."""
    return diagnosed(tmp_path_factory.mktemp('baseline'))


@pytest.fixture(scope='module')
def worse(tmp_path_factory):
    """Return the same with blue cubes failing as well."""
    return diagnosed(tmp_path_factory.mktemp('worse'), Rigged(blue_cube=always))


def test_the_same_policy_passes(baseline):
    assert failed(baseline, baseline) == []
    found = judged(baseline, baseline)
    assert list(found) == ['nominal', *(row.name for row in baseline.map.perturbations)]
    assert {each.outcome for each in found.values()} == {'passed'}
    assert 'as in the baseline' in found['red_table'].sentence
    assert 'not shown to be a failure mode' in found['blue_cube'].sentence


def test_a_new_mode_fails_and_is_told_in_one_sentence(baseline, worse):
    verdict, = new_modes(worse, baseline)
    before = sum(baseline.evidence.fixed(('blue_cube',)).values())
    assert verdict.name == 'blue_cube'
    assert verdict.sentence == (
        'blue_cube is a new failure mode: it fails 88 to 100 times in 100 (30 of 30 rollouts); '
        f'nominal {rate(baseline.map.nominal)}; on the 30 trials of both it failed on '
        f'{30 - before} only now and on 0 only in the baseline.')


def rate(row):
    """Return a rate as the gate's sentences have it."""
    low, high = row.interval
    low, high = math.floor(100 * low), math.ceil(100 * high)
    return f'{low} to {high} times in 100 ({row.failures} of {row.n} rollouts)'


def test_what_was_mended_passes(baseline, worse):
    assert failed(baseline, worse) == []


@pytest.mark.parametrize('seed', [0, 1])
def test_a_worse_nominal_scene_fails(baseline, tmp_path, seed):
    found = judged(diagnosed(tmp_path, Rigged(nominal=lambda t: t % 2 == 0), seed=seed), baseline)
    assert found['nominal'].outcome == 'failed'
    assert ('McNemar' if seed == 0 else 'Fisher') in found['nominal'].sentence


def test_another_seed_is_judged_by_the_maps_alone(baseline, tmp_path):
    found = judged(diagnosed(tmp_path, Rigged(blue_cube=always), seed=1), baseline)
    assert [name for name, each in found.items() if each.outcome == 'failed'] == ['blue_cube']
    row, = (row for row in baseline.map.perturbations if row.name == 'blue_cube')
    assert found['blue_cube'].sentence.endswith(f'in the baseline {rate(row)}.')


@pytest.mark.parametrize('seed', [0, 1])
def test_a_verdict_that_differs_while_the_policy_does_not_passes(tmp_path, seed):
    """Blue cubes fail as often as before; nominal got better, so that now it shows."""
    rules = {'blue_cube': lambda t: t % 5 < 2, 'nominal': lambda t: t % 5 < 1}
    before = diagnosed(tmp_path / 'before', Rigged(**rules))
    now = diagnosed(tmp_path / 'now', Rigged(**rules | {'nominal': lambda t: False}), seed=seed)
    names = [[row.name for row in each.map.failure_modes] for each in (before, now)]
    assert 'blue_cube' not in names[0] and 'blue_cube' in names[1]
    found = judged(now, before)['blue_cube']
    assert found.outcome == 'passed' and 'hardly worse' in found.sentence


def test_a_baseline_of_few_rollouts_excuses_nothing(tmp_path):
    runner = Rigged(blue_cube=always, nominal=lambda t: False)
    before = diagnosed(tmp_path / 'before', runner, 20 + 6 * 5)
    assert 'blue_cube' not in [row.name for row in before.map.failure_modes]
    now = diagnosed(tmp_path / 'now', runner)
    assert 'blue_cube' in failed(now, before)


def changed(perturbation, **others):
    """Return the catalogue with one perturbation changed so."""
    return replace(CATALOGUE, digest='e' * 64, perturbations=tuple(
        replace(each, **others) if each.name == perturbation else each for each in CATALOGUE))


def test_what_the_baselines_catalogue_lacks_is_new(baseline, tmp_path):
    extra = Perturbation('tiny_cube', 'cube.size', (0.01,) * 3, 'Shrink the cube')
    catalogue = replace(
        CATALOGUE, digest='e' * 64, perturbations=(*CATALOGUE.perturbations, extra))
    found = diagnosed(tmp_path, Rigged(tiny_cube=always), 230, catalogue=catalogue)
    verdict, = new_modes(found, baseline)
    assert verdict.name == 'tiny_cube'
    assert "absent from the baseline's catalogue" in verdict.sentence


@pytest.mark.parametrize('others, expected', [
    ({'name': 'crimson_table'}, 'passed'), ({'value': (0.9, 0.0, 0.0)}, 'failed')])
def test_a_perturbation_is_what_it_changes(baseline, tmp_path, others, expected):
    """Another name is the same perturbation, another value is another one."""
    catalogue = changed('red_table', **others)
    name = others.get('name', 'red_table')
    found = diagnosed(tmp_path, Rigged(**{name: always}), catalogue=catalogue)
    assert judged(found, baseline)[name].outcome == expected


def test_too_few_rollouts_are_skipped_and_not_passed(baseline, tmp_path):
    found = judged(diagnosed(tmp_path, number=20 + 6 * 7), baseline)
    assert {each.outcome for name, each in found.items() if name != 'nominal'} == {'skipped'}
    # Holm over 6, two-sided: 6 * 2 / 2^8 < 0.05 <= 6 * 2 / 2^7
    found = judged(diagnosed(tmp_path / 'more', number=20 + 6 * 8), baseline)
    assert 'skipped' not in {each.outcome for each in found.values()}


# The baseline.

def test_a_baseline_is_read(baseline, tmp_path):
    diagnosed(tmp_path / 'b')
    assert read_baseline(tmp_path / 'b', tmp_path, 'lift', 100).map.stopped


def refusal(folder, *others):
    """Return why the folder is no baseline."""
    with pytest.raises(UserError) as caught:
        read_baseline(folder, *others)
    sentence, = str(caught.value).splitlines()
    return sentence


def test_unusable_baselines_are_refused(tmp_path, monkeypatch):
    out, folder = tmp_path / 'out', tmp_path / 'b'
    assert 'failure_map.json' in refusal(folder, out, 'lift', 100)
    diagnosed(folder)
    assert 'both the baseline and out' in refusal(folder, folder, 'lift', 100)
    assert 'its task is lift and not can' in refusal(folder, out, 'can', 100)
    assert 'its horizon is 100 and not 50' in refusal(folder, out, 'lift', 50)
    (folder / 'ledger.sqlite').unlink()
    assert 'no ledger' in refusal(folder, out, 'lift', 100)
    monkeypatch.setitem(PPO, 'n_epochs', 1)
    a_diagnosis(settings(tmp_path / 'p', searcher='ppo', rollouts=60, confirm_share=0),
                CoinRunner())
    assert 'compares no perturbation' in refusal(tmp_path / 'p', out, 'lift', 100)


def test_an_interrupted_baseline_is_refused(tmp_path):
    class Stopped(CoinRunner):

        def outcome(self, request, failed):
            if len(self.ran) > 30:
                raise KeyboardInterrupt
            return super().outcome(request, failed)

    with pytest.raises(KeyboardInterrupt):
        diagnosed(tmp_path / 'b', Stopped())
    sentence = refusal(tmp_path / 'b', tmp_path, 'lift', 100)
    assert 'has not ended' in sentence and sentence.endswith('first: robomd diagnose.')


# JUnit XML.

def test_junit_says_what_the_gate_says(worse, baseline, tmp_path):
    each = (*verdicts(worse, baseline), Verdict('odd', 'skipped', 'Has <too few> & "odd" \x00.'))
    path = write_junit(tmp_path, worse.map, each, tmp_path / 'baseline')
    assert [file.name for file in tmp_path.iterdir()] == ['junit.xml'] == [path.name]
    suite, = JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (8, 1, 0, 1)
    cases = {case.name: case for case in suite}
    assert list(cases) == [verdict.name for verdict in each]
    assert {case.classname for case in cases.values()} == {'lift.builtin:lift'}
    result, = cases['blue_cube'].result
    assert isinstance(result, Failure) and result.message == next(
        verdict.sentence for verdict in each if verdict.name == 'blue_cube')
    result, = cases['odd'].result
    assert isinstance(result, Skipped) and result.message == 'Has <too few> & "odd" \ufffd.'
    assert cases['red_table'].is_passed
    properties = {each.name: each.value for each in suite.properties()}
    assert properties['seed'] == '0' and properties['n'] == '200'
    assert properties['version.robomd_ros'] == '0.1.0'
    assert properties['baseline'] == str(tmp_path / 'baseline')


def test_junit_has_the_form_that_servers_read(worse, baseline, tmp_path):
    """Elements and attributes as in the schema of Jenkins, junit-10.xsd."""
    root = ElementTree.parse(
        write_junit(tmp_path, worse.map, verdicts(worse, baseline), tmp_path)).getroot()
    assert root.tag == 'testsuites'
    suite, = root
    assert suite.tag == 'testsuite'
    assert {'name', 'tests', 'failures', 'errors'} <= set(suite.keys())
    for child in suite:
        assert child.tag in ('properties', 'testcase')
    for case in suite.iter('testcase'):
        assert {'name', 'classname'} <= set(case.keys())
        assert {child.tag for child in case} <= {'failure', 'skipped', 'system-out'}
    for entry in suite.iter('property'):
        assert set(entry.keys()) == {'name', 'value'}
    counted = int(suite.get('tests')), int(suite.get('failures'))
    assert counted == (len(list(suite.iter('testcase'))), len(list(suite.iter('failure')))) == (
        7, 1)


# The command.

@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return what runs `robomd diagnose` with coins in the place of the simulation."""
    catalogue = tmp_path / 'three.yaml'
    catalogue.write_text('task: lift\nperturbations:\n' + ''.join(
        f'  - name: {color}_table\n    slot: table.color\n    value: {value}\n'
        f'    sentence: Change table color to {color}\n'
        for color, value in (('green', [0, 1, 0]), ('blue', [0, 0, 1]), ('gray', [0.5] * 3))))
    runners = []

    def run(out, runner=None, *words):
        runners.append(runner or CoinRunner())
        monkeypatch.setattr(rollouts, 'LocalRunner', lambda *_: runners[-1])
        return main(['diagnose', '--searcher', 'sweep', '--rollouts', '60', '--catalogue',
                     str(catalogue), '--out', str(tmp_path / out), *words])

    world = SimpleNamespace(info=INFO, check=lambda catalogue: None, close=lambda: None)
    monkeypatch.setattr(mujoco_world, 'MujocoWorld', lambda *_: world)
    monkeypatch.setattr(policies, 'load_policy', lambda name, task: SimpleNamespace(
        needs=None, digest=name))
    monkeypatch.setattr(reports, 'conclude', lambda out: '')
    run.runners, run.catalogue = runners, catalogue
    return run


def test_gate_exits_1_on_a_regression_and_0_without(command, tmp_path, capsys):
    assert command('baseline') == 0
    assert not (tmp_path / 'baseline' / 'junit.xml').exists()
    gate = '--fail-on-new-modes', str(tmp_path / 'baseline')
    assert command('same', None, *gate) == 0
    assert '0 of 4 conditions are regressions, 0 had too few' in capsys.readouterr().out
    suite, = JUnitXml.fromfile(str(tmp_path / 'same' / 'junit.xml'))
    assert (suite.tests, suite.failures) == (4, 0)
    worse = Rigged(blue_table=always)
    assert command('worse', worse, *gate) == 1
    assert '  blue_table is a new failure mode: ' in capsys.readouterr().out
    suite, = JUnitXml.fromfile(str(tmp_path / 'worse' / 'junit.xml'))
    assert [case.name for case in suite if case.is_failure] == ['blue_table']
    assert command('worse', worse, *gate) == 1  # it is done already, and judged again
    assert command('worse', worse) == 0


@pytest.mark.parametrize('prepare', [
    lambda out: None,
    lambda out: out.mkdir(),
    lambda out: diagnosed(out).map and (out / 'failure_map.json').write_text('{}')])
def test_unusable_baseline_exits_2_before_any_rollout(command, tmp_path, capsys, prepare):
    prepare(tmp_path / 'baseline')
    assert command('now', None, '--fail-on-new-modes', str(tmp_path / 'baseline')) == 2
    sentence, = capsys.readouterr().err.splitlines()
    assert sentence.startswith('robomd: There is no baseline to use: ')
    assert not command.runners[-1].ran and not (tmp_path / 'now').exists()


def test_a_search_that_confirms_nothing_cannot_be_gated(command, tmp_path, capsys):
    assert command('baseline') == 0
    assert command('now', None, '--fail-on-new-modes', str(tmp_path / 'baseline'), '--searcher',
                   'ppo', '--confirm_share', '0') == 2
    assert 'confirm_share' in capsys.readouterr().err and not command.runners[-1].ran


@pytest.mark.parametrize('code', [0, 1])
def test_up_is_gated_once_the_graph_has_ended(command, tmp_path, monkeypatch, code):
    assert command('baseline') == command('worse', Rigged(blue_table=always)) == 0
    monkeypatch.setattr(up, 'run', lambda given: code)
    assert main(['up', '--searcher', 'sweep', '--catalogue', str(command.catalogue), '--out',
                 str(tmp_path / 'worse'), '--fail-on-new-modes', str(tmp_path / 'baseline')]) == 1
    assert (tmp_path / 'worse' / 'junit.xml').exists() == (code == 0)
