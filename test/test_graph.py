# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The description of the graph, what it refuses, and the messages that pass through it."""

import ast
import dataclasses
import importlib
import json
import math
from pathlib import Path
import re

from ament_index_python.packages import PackageNotFoundError
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from robomd_ros import msg
from robomd_ros.conditions import Condition, load_catalogue, Perturbation
from robomd_ros.conditions.tasks import get_task
from robomd_ros.diagnosis.environment import REWARDS
from robomd_ros.diagnosis.failure_map import ConditionRow, FailureMap, MapRow, Rate
from robomd_ros.diagnosis.run import DEEPEST, LARGEST, MOST, SEARCHERS, Settings, STOPS
from robomd_ros.diagnosis.statistics import Paired
from robomd_ros.errors import UserError
from robomd_ros.graph import ARGUMENTS, CLIENT, describe, read_arguments
from robomd_ros.ros import conversions
from robomd_ros.up import run
from robomd_ros.worlds.pictures import FIDELITIES
from robomd_ros.worlds.protocol import Outcome
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'config'
LIFT = CONFIG / 'catalogues' / 'lift.yaml'
LIFT_TASK = get_task('lift')


def names(**given):
    return [process.name for process in describe(read_arguments(given))]


def test_every_process_has_an_executable():
    for process in describe(read_arguments({'executors': 3})):
        module = importlib.import_module(f'robomd_ros.nodes.{process.executable}')
        assert callable(module.main)


def test_the_client_comes_last():
    assert names(executors='1') == [
        'perturbation_manager', 'success_detector', 'diagnoser', 'policy_executor_0', CLIENT]
    assert names(rviz='true', rqt='True')[-3:] == ['rviz2', 'rqt', CLIENT]


def test_only_the_first_executor_has_the_usual_topics():
    first, second = (process for process in describe(read_arguments({'executors': 2}))
                     if process.executable == 'policy_executor')
    assert first.remappings == ()
    assert dict(second.remappings) == {
        'camera/image_raw': 'policy_executor_1/camera/image_raw',
        'joint_states': 'policy_executor_1/joint_states'}
    assert first.parameters == second.parameters


def test_every_argument_reaches_a_process(tmp_path):
    given = {'policy': 'python:a:b', 'searcher': 'sweep', 'rollouts': '7', 'seed': '3',
             'reward': 'flat', 'max_perturbations': '3', 'executors': '1',
             'control_share': '0.25', 'confirm_share': '0', 'stop': 'settled', 'settle_top': '2',
             'settle_within': '.5', 'out': str(tmp_path / 'new'), 'catalogue': str(LIFT),
             'horizon': '9', 'fidelity': 'full', 'task': 'lift'}
    processes = {process.name: process for process in describe(read_arguments(given))}
    assert processes['policy_executor_0'].parameters == {
        'task': 'lift', 'policy': 'python:a:b', 'fidelity': 'full', 'horizon': 9,
        'catalogue': str(LIFT)}
    assert processes['perturbation_manager'].parameters == {
        'task': 'lift', 'catalogue': str(LIFT)}
    assert processes['diagnoser'].parameters == {'executors': 1}
    assert processes[CLIENT].parameters == {
        'task': 'lift', 'catalogue': str(LIFT), 'searcher': 'sweep', 'rollouts': 7, 'seed': 3,
        'control_share': 0.25, 'confirm_share': 0.0, 'stop': 'settled', 'settle_top': 2,
        'settle_within': 0.5, 'reward': 'flat', 'max_perturbations': 3,
        'out': str(tmp_path / 'new')}
    assert not (tmp_path / 'new').exists()


def test_defaults_read_as_they_are_written():
    values = read_arguments({argument.name: argument.default_text for argument in ARGUMENTS})
    assert values == read_arguments({})
    assert values['out'] == str(Path('diagnosis').absolute())


def test_the_choices_are_all_there_are():
    choices = {argument.name: argument.choices for argument in ARGUMENTS}
    assert choices['searcher'] == tuple(SEARCHERS)
    assert choices['reward'] == tuple(REWARDS) and choices['stop'] == STOPS
    assert sorted(choices['fidelity']) == sorted(['', *FIDELITIES])


def test_limits_and_defaults_are_those_of_a_diagnosis():
    known = {argument.name: argument for argument in ARGUMENTS}
    assert (known['seed'].high, known['rollouts'].high) == (LARGEST, MOST)
    assert known['max_perturbations'].high == DEEPEST
    for name in ('reward', 'max_perturbations', 'control_share', 'confirm_share', 'stop',
                 'settle_top', 'settle_within'):
        assert known[name].default == getattr(Settings, name)
    assert read_arguments({'seed': str(LARGEST)})['seed'] == LARGEST


def test_every_argument_is_described():
    assert all(len(argument.description) > 10 for argument in ARGUMENTS)


@pytest.mark.parametrize(('given', 'why'), [
    ({'task': 'fly'}, "Unknown task 'fly'; choose one of lift."),
    ({'searcher': 'luck'}, "Unknown searcher 'luck'; choose one of ppo, a2c, "),
    ({'rollouts': 0}, "rollouts must be a whole number from 1 to 1000000, not '0'."),
    ({'rollouts': 'many'}, "rollouts must be a whole number from 1 to 1000000, not 'many'."),
    ({'seed': '-1'}, "seed must be a whole number from 0 to 2147483647, not '-1'."),
    ({'seed': '1.5'}, "seed must be a whole number from 0 to 2147483647, not '1.5'."),
    ({'executors': '0'}, "executors must be a whole number from 1 to 100, not '0'."),
    ({'executors': 101}, "executors must be a whole number from 1 to 100, not '101'."),
    ({'seed': 2**31}, "seed must be a whole number from 0 to 2147483647, not '2147483648'."),
    ({'seed': '9' * 5000}, 'seed must be a whole number from 0 to 2147483647, not '),
    ({'horizon': -1}, "horizon must be a whole number from 0 to 2147483647, not '-1'."),
    ({'max_perturbations': 0}, "max_perturbations must be a whole number from 1 to 20, not '0'."),
    ({'max_perturbations': 21}, 'max_perturbations must be a whole number from 1 to 20, not '),
    ({'control_share': '-0.1'}, 'control_share must be a number from 0 to 0.9, such as 0.1, not '),
    ({'confirm_share': '0.95'}, 'confirm_share must be a number from 0 to 0.9, such as 0.4, not '),
    ({'settle_within': 'nan'}, 'settle_within must be a number from 0 to 1, such as 0.2, not '),
    ({'stop': 'early'}, "Unknown stop 'early'; choose one of budget, settled."),
    ({'reward': 'gold'}, "Unknown reward 'gold'; choose one of paper, flat, eq1_direction."),
    ({'fidelity': 'low'}, "Unknown fidelity 'low'; choose one of '', full, fast."),
    ({'rviz': 'maybe'}, "rviz must be true or false, not 'maybe'."),
    ({'speed': '1'}, 'Unknown argument speed; there are task, '),
    ({'catalogue': '/nowhere.yaml'}, 'There is no catalogue /nowhere.yaml'),
    ({'out': f'{LIFT}/out'}, f'out is to be {LIFT}/out, but {LIFT} is a file'),
])
def test_bad_arguments_get_one_sentence(given, why, capfd):
    with pytest.raises(UserError) as error:
        run(given)  # which starts nothing then
    assert str(error.value).startswith(why)
    assert str(error.value).endswith('.')
    assert capfd.readouterr() == ('', '')


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr('os.access', lambda path, mode: path != str(tmp_path))  # root may do all
    with pytest.raises(UserError, match=f'{tmp_path} cannot be written to; give another folder.'):
        read_arguments({'out': tmp_path / 'a' / 'b'})


def test_rviz_without_ros_2_is_refused(monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr('robomd_ros.up.get_package_prefix', missing)
    with pytest.raises(UserError, match='rviz2 is not installed here'):
        run({'rviz': 'true'})


def passed_on(message):
    """Return the message as it arrives in another process."""
    return deserialize_message(serialize_message(message), type(message))


def test_conditions_pass_through_messages():
    catalogue = load_catalogue(LIFT)
    odd = Condition((
        Perturbation('a', 'cube.mass', 0.00123, 'Light as a feather'),
        Perturbation('b', 'table.texture', 'null', "A texture called 'null': [1, 2]"),
        Perturbation('c', 'light.color', (0.1, 1 / 3, 1.0), 'Change the light')))
    for condition in (Condition(), odd, *(Condition((p,)) for p in catalogue)):
        message = passed_on(conversions.condition_to_msg(condition))
        assert conversions.condition_from_msg(message, LIFT_TASK) == condition


@pytest.mark.parametrize('value', ['[1, red]', '[', '', '{a: 1}', '[[1]]', 'null'])
def test_a_value_that_is_none_is_refused(value):
    message = msg.Condition(perturbations=[
        msg.Perturbation(name='a', slot='cube.color', value=value, sentence='A')])
    with pytest.raises(UserError, match='That is not a condition'):
        conversions.condition_from_msg(message, LIFT_TASK)


@pytest.mark.parametrize('outcome', [
    Outcome('success', '', 1.0, 'simulator'), Outcome('failure', '', 0.5, 'operator'),
    Outcome('invalid', 'solved_at_reset', 1.0, 'simulator')])
def test_outcomes_pass_through_messages(outcome):
    message = passed_on(conversions.outcome_to_msg(outcome))
    assert conversions.outcome_from_msg(message) == outcome


def test_no_outcome_is_undecided():
    assert conversions.outcome_to_msg(None).verdict == msg.Outcome.UNDECIDED


def test_pictures_pass_through_messages():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for picture in (pixels, pixels[::2, ::2]):  # the second one's bytes are not contiguous
        message = passed_on(conversions.image_to_msg(picture, msg.RunState().header.stamp, 'c'))
        assert (message.encoding, message.step) == ('rgb8', 3 * picture.shape[1])
        assert (conversions.image_from_msg(message) == picture).all()


def row(name, **others):
    return MapRow(name=name, sentence=f'Change {name}', **{
        'n': 0, 'failures': 0, 'failure_rate': None, 'interval': (0.0, 1.0), 'invalid': 0,
        'anytime': (0.0, 1.0), 'source': '', **others})


def test_the_failure_map_passes_through_a_message():
    found = FailureMap(
        created='', command='', versions={}, budget={'asked': 9, 'done': 5, 'invalid': 1},
        settings={'task': 'lift', 'policy': 'p', 'searcher': 'ppo', 'seed': 2},
        stopped='All is done.', nominal=row('nominal'), perturbations=(
            row('red', n=4, failures=1, failure_rate=0.25, interval=(0.1, 0.7), rank=1,
                anytime=(0.05, 0.8), source='confirmation', verdict='failure mode', suspicion=0.5,
                discovery=Rate(6, 2, 1 / 3, (0.0, 0.9)), estimate=0.125,
                versus_nominal=Paired(4, 1, 0, 0.25, (-0.1, 0.6), 0.5, 1.0),
                search_mass=0.75, invalid=1), row('blue', search_mass=0.25)))
    found = dataclasses.replace(found, conditions=tuple(
        ConditionRow(('blue', f'red{n}'), 4, 1, 0.25, (0.1, 0.7), (0.0, 0.9), 'discovery', 2)
        for n in range(60)))
    message = passed_on(conversions.failure_map_to_msg(found, msg.RunState().header.stamp))
    assert (message.task, message.policy, message.searcher) == ('lift', 'p', 'ppo')
    assert message.seed == 2
    assert (message.rollouts_done, message.rollouts_asked) == (5, 9)
    red, blue = message.perturbations
    assert (red.name, red.sentence, red.rank) == ('red', 'Change red', 1)
    assert (red.n, red.failures, red.failure_rate, red.invalid) == (4, 1, 0.25, 1)
    assert (red.interval_low, red.interval_high, red.search_mass) == (0.1, 0.7, 0.75)
    assert (red.anytime_low, red.anytime_high, red.source) == (0.05, 0.8, red.CONFIRMATION)
    assert (red.verdict, red.pairs, red.difference, red.p_holm) == (red.FAILURE_MODE, 4, 0.25, 1.0)
    assert (red.difference_low, red.difference_high) == (-0.1, 0.6)
    assert (red.discovery_n, red.discovery_failures) == (6, 2)
    assert (red.discovery_low, red.discovery_high) == (0.0, 0.9)
    assert (red.suspicion, red.estimate) == (0.5, 0.125)
    assert all(map(math.isnan, (blue.difference, blue.p_holm, blue.suspicion, blue.estimate)))
    assert (blue.source, blue.verdict) == (blue.NOT_TRIED, blue.NOT_SHOWN)
    assert len(message.conditions) == 50
    first = message.conditions[0]
    assert (first.perturbations, first.n, first.failures) == (['blue', 'red0'], 4, 1)
    assert (first.source, first.interval_high, first.invalid) == (red.DISCOVERY, 0.7, 2)
    assert message.stopped == 'All is done.' and message.findings
    assert math.isnan(blue.failure_rate) and blue.rank == 0 and blue.search_mass == 0.25
    assert math.isnan(message.nominal.failure_rate) and math.isnan(message.nominal.search_mass)


def test_every_error_code_is_in_the_documentation():
    documented = set(re.findall(r'^\| (\d+) \| `(\w+)` \| `(\w+)`', (
        ROOT / 'docs' / 'ros.md').read_text(), re.MULTILINE))
    files = *ROOT.glob('srv/*.srv'), *ROOT.glob('action/*.action')
    defined = {
        (code, name, file.stem) for file in files
        for name, code in re.findall(r'^uint16 (\w+)=([1-9]\d*)', file.read_text(), re.MULTILINE)}
    assert documented == defined and len(defined) > 10


TOPICS = {'/camera/image_raw', '/failure_map/image'}


def test_rviz_shows_the_pictures():
    displays = yaml.safe_load((CONFIG / 'diagnose.rviz').read_text())['Visualization Manager'][
        'Displays']
    assert {display['Topic']['Value'] for display in displays} == TOPICS


def test_rqt_shows_the_pictures():
    perspective = json.loads((CONFIG / 'diagnose.perspective').read_text())
    manager = perspective['groups']['pluginmanager']
    running = ast.literal_eval(manager['keys']['running-plugins']['repr'])
    assert running['rqt_image_view/ImageView'] == [1, 2]
    assert TOPICS == {
        ast.literal_eval(group['groups']['plugin']['keys']['topic']['repr'])
        for group in manager['groups'].values()}
