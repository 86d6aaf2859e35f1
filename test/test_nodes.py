# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The nodes, each a process of its own: what they offer, what they refuse, and how they end."""

import math
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from graph_client import EXECUTOR
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import puppet
import pytest
from rcl_interfaces.srv import DescribeParameters, ListParameters
from robomd_ros import msg
from robomd_ros.action import Diagnose, ExecuteRollout, PrepareScene
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.conditions.tasks import get_task
from robomd_ros.graph import ARGUMENTS, ASKED
from robomd_ros.nodes.diagnose import DiagnoseClient
from robomd_ros.ros.conversions import condition_from_msg, condition_to_msg, image_from_msg
from robomd_ros.ros.node import ALIVE, LATCHED
from robomd_ros.srv import JudgeRollout
from sensor_msgs.msg import Image, JointState

LIFT = get_task('lift')
CATALOGUE = load_catalogue(default_catalogue('lift'))


def rollout(condition=NOMINAL, **others):
    return ExecuteRollout.Goal(condition=condition_to_msg(condition), seed=1, trial=2, **others)


# perturbation_manager


def test_a_scene_is_prepared(client):
    goal = PrepareScene.Goal(scene='here', perturbations=['red_table', 'big_cube'])
    result = client.result(client.links.scenes, goal).result
    assert (result.error_code, result.error_msg) == (result.NONE, '')
    condition = CATALOGUE.condition(['red_table', 'big_cube'])
    assert condition_from_msg(result.condition, LIFT) == condition
    latched = client.hear(msg.SceneCondition, 'perturbation_manager/condition', LATCHED)
    assert (latched.scene, latched.header.frame_id) == ('here', 'world')
    assert condition_from_msg(latched.condition, LIFT) == condition


@pytest.mark.parametrize(('names', 'code'), [
    (['mauve_table'], PrepareScene.Result.UNKNOWN_PERTURBATION),
    (['red_table', 'blue_table'], PrepareScene.Result.SAME_SLOT)])
def test_a_scene_that_cannot_be_is_refused(client, names, code):
    answer = client.result(client.links.scenes, PrepareScene.Goal(perturbations=names))
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.error_code == code
    assert names[0] in answer.result.error_msg


# policy_executor


def test_a_rollout_is_executed(client):
    answer = client.result(client.executor, rollout(CATALOGUE.condition(['red_table'])))
    result = answer.result
    assert (answer.status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, result.NONE)
    assert (result.observed.verdict, result.observed.source) == (msg.Outcome.FAILURE, 'simulator')
    assert result.steps == 5 and 0 < result.duration < 30
    for frame in (result.first_frame, result.last_frame):
        picture = image_from_msg(frame)
        assert picture.shape == (84, 84, 3) and frame.header.frame_id == 'agentview'
        red, green, blue = picture.reshape(-1, 3).T.astype(int)
        assert ((red > 80) & (red > 2 * green) & (red > 2 * blue)).mean() > 0.1  # the table


def test_the_goal_sets_the_horizon(client):
    assert client.result(client.executor, rollout(horizon=3)).result.steps == 3
    assert client.result(client.executor, rollout()).result.steps == 5


@pytest.mark.parametrize('perturbation', [
    Perturbation('odd', 'body:nobody.mass', 1.0, 'Change what is not there'),
    Perturbation('odd', 'cube.color', 'red', 'Change the colour to a word')])
def test_a_condition_that_cannot_be_is_refused(client, perturbation):
    answer = client.result(client.executor, rollout(Condition((perturbation,))))
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.error_code == ExecuteRollout.Result.BAD_CONDITION
    assert answer.result.error_msg.endswith('.')
    assert client.result(client.executor, rollout()).result.error_code == 0


@pytest.mark.parametrize(('mode', 'reason'), [
    ('nan', 'policy_returned_nan'), ('shape', 'policy_returned_shape (6,), expected (7,)'),
    ('raise', 'policy_raised RuntimeError: the strings are cut')])
def test_a_policy_that_misbehaves_makes_a_rollout_invalid(client, say, mode, reason):
    say(mode)
    result = client.result(client.executor, rollout()).result
    assert (result.error_code, result.observed.verdict, result.observed.reason) == (
        result.NONE, msg.Outcome.INVALID, reason)


def test_a_second_rollout_is_refused_and_the_first_can_be_canceled(client, say):
    say('slow')
    steps, acting = [], threading.Event()

    def feedback(message):
        steps.append(message.feedback.step)
        acting.set()

    first = client.send(client.executor, rollout(horizon=2000), feedback_callback=feedback)
    assert acting.wait(15)
    second = client.result(client.executor, rollout())
    assert second.status == GoalStatus.STATUS_ABORTED
    assert second.result.error_code == ExecuteRollout.Result.BUSY
    began = time.monotonic()
    client.ask(first.cancel_goal_async)
    answer = client.ask(first.get_result_async)
    assert time.monotonic() - began < 2.0
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert answer.result.error_code == ExecuteRollout.Result.CANCELED
    assert steps == sorted(steps) and 0 < steps[-1] < 2000
    assert client.result(client.executor, rollout()).result.error_code == 0


def test_what_is_not_active_refuses(client):
    def change(node, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert client.call(ChangeState, f'{node}/change_state', request).success

    for node in (EXECUTOR, 'success_detector'):
        change(node, Transition.TRANSITION_DEACTIVATE)
    answer = client.result(client.executor, rollout())
    assert answer.result.error_code == ExecuteRollout.Result.NOT_ACTIVE
    assert client.ask(client.links.judge.call_async, JudgeRollout.Request()
                      ).error_code == JudgeRollout.Response.NOT_ACTIVE
    client.hear(DiagnosticArray, '/diagnostics', until=lambda message: (
        message.status[0].name == EXECUTOR and message.status[0].message == 'Not active.'))
    change(EXECUTOR, Transition.TRANSITION_CLEANUP)
    change(EXECUTOR, Transition.TRANSITION_CONFIGURE)
    for node in (EXECUTOR, 'success_detector'):
        change(node, Transition.TRANSITION_ACTIVATE)
    assert client.result(client.executor, rollout()).result.error_code == 0


def test_camera_and_joints_are_shown(client, say):
    say('slow')
    handle = client.send(client.executor, rollout(horizon=2000))
    picture = client.hear(Image, 'camera/image_raw')
    joints = client.hear(JointState, 'joint_states')
    client.ask(handle.cancel_goal_async)
    client.ask(handle.get_result_async)
    assert image_from_msg(picture).shape == (84, 84, 3) and image_from_msg(picture).std() > 10
    assert len(joints.name) == len(joints.position) == len(joints.velocity) == 9
    assert joints.name[0] == 'robot0_joint1' and joints.header.stamp.sec > 0
    assert -math.pi < joints.position[3] < -math.pi / 2  # the elbow is bent


def test_the_executor_says_what_it_holds(client):
    info = client.hear(msg.ExecutorInfo, f'{EXECUTOR}/info', ALIVE)
    assert (info.task, info.world, info.fidelity, info.horizon) == ('lift', 'mujoco', 'fast', 5)
    assert len(info.policy_digest) == len(info.model_digest) == 64
    assert info.policy.startswith('python:') and info.instruction
    assert any(version.startswith('mujoco 3.') for version in info.versions)


# success_detector


def test_the_simulators_own_check_is_the_verdict(client):
    observed = msg.Outcome(
        verdict=msg.Outcome.SUCCESS, confidence=1.0, source='simulator')
    answer = client.ask(client.links.judge.call_async, JudgeRollout.Request(observed=observed))
    assert (answer.outcome, answer.error_code) == (observed, answer.NONE)


def test_what_nobody_can_judge_is_undecided(client):
    answer = client.ask(client.links.judge.call_async, JudgeRollout.Request())
    assert answer.error_code == answer.UNDECIDED and answer.error_msg


# What all nodes have


PAGE = (Path(__file__).parents[1] / 'docs' / 'ros.md').read_text()


def section(title):
    """Return a section of the documentation; those of nodes have their names."""
    _, text = re.split(rf'### {title.removesuffix("_0")}\b', PAGE)
    return text.partition('##')[0]


def test_every_node_tells_of_its_health(client):
    heard = {}

    def all_heard(message):
        heard.update({status.name: status for status in message.status})
        return len(heard) == 4

    client.hear(DiagnosticArray, '/diagnostics', until=all_heard)
    assert set(heard) == {'perturbation_manager', EXECUTOR, 'success_detector', 'diagnoser'}
    assert all(status.message and status.values for status in heard.values())


def test_every_parameter_is_described(client):
    for node in ('perturbation_manager', EXECUTOR, 'success_detector', 'diagnoser'):
        names = client.call(ListParameters, f'{node}/list_parameters', ListParameters.Request())
        described = client.call(
            DescribeParameters, f'{node}/describe_parameters',
            DescribeParameters.Request(names=names.result.names))
        ours = [d for d in described.descriptors if d.name not in (
            'use_sim_time', 'start_type_description_service')]
        assert ours and all(d.description.endswith('.') and d.read_only for d in ours)
        assert all(f'| `{d.name}` |' in section(node) for d in ours)


def test_the_parameters_of_the_client_are_arguments_of_the_graph(processes):
    client = DiagnoseClient()
    fields = Diagnose.Goal.get_fields_and_field_types()
    asked = {argument.name: argument for argument in ARGUMENTS if argument.name in fields}
    assert set(asked) == set(fields) == set(ASKED)
    for name, argument in asked.items():
        about = client.describe_parameter(name)
        assert about.description[1:] == f'{argument.description[1:]}.' and about.read_only
        assert client.get_parameter(name).value == argument.default
        ranges = [*about.integer_range, *about.floating_point_range]
        numbers = [(argument.low, argument.high)] * (not isinstance(argument.default, str))
        assert [(each.from_value, each.to_value) for each in ranges] == numbers
        assert f'`{name}`' in section('diagnose')
    client.destroy_node()


def test_every_argument_is_in_the_documentation():
    for argument in ARGUMENTS:
        shown = f'`{argument.default_text}`' if argument.default_text else 'empty'
        assert f'| `{argument.name}` | {shown} |' in section('Arguments')


def test_every_name_is_in_the_documentation(client):
    for node in ('perturbation_manager', EXECUTOR, 'success_detector', 'diagnoser'):
        names = [name for name, _ in client.node.get_publisher_names_and_types_by_node(node, '/')]
        names += [name.removesuffix('/_action/send_goal') for name, (kind, *_) in
                  client.node.get_service_names_and_types_by_node(node, '/')
                  if name.endswith('/_action/send_goal') or kind.startswith('robomd_ros/srv')]
        ours = [name for name in names if '_action' not in name and name not in (
            '/diagnostics', '/parameter_events', '/rosout', f'/{node}/transition_event')]
        assert ours
        for name in ours:
            documented = name.replace(f'/{node}/', '~/').removeprefix('/')
            assert f'| `{documented}` |' in section(node)


# How the processes start and end


@pytest.mark.parametrize(('node', 'parameters', 'why'), [
    ('perturbation_manager', {'task': 'fly'}, "Unknown task 'fly'"),
    ('perturbation_manager', {'catalogue': '/nowhere.yaml'}, 'There is no catalogue'),
    ('policy_executor', {'policy': 'luck'}, "Unknown policy 'luck'"),
    ('policy_executor', {'horizon': '-1'}, 'horizon must be a whole number from 0 to 2147483647.'),
    ('diagnoser', {'executors': 'two'}, 'executors must be a whole number from 1 to 100.'),
    ('diagnose', {'seed': '2147483648'}, 'seed must be a whole number from 0 to 2147483647.'),
    ('diagnose', {'rollouts': '1000001'}, 'rollouts must be a whole number from 1 to 1000000.'),
    ('diagnose', {'control_share': '0.95'}, 'control_share must be a number from 0.0 to 0.9.'),
    ('diagnose', {'max_perturbations': '21'}, 'max_perturbations must be a whole number from 1 ')])
def test_a_node_that_cannot_start_says_why_in_one_sentence(node, parameters, why):
    words = [word for item in parameters.items() for word in ('-p', '{}:={}'.format(*item))]
    ended = subprocess.run(
        [sys.executable, '-m', f'robomd_ros.nodes.{node}', '--ros-args', *words],
        capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    line, = ended.stderr.splitlines()
    assert why in line and ('FATAL' in line or node == 'diagnose')  # whose terminal it is


def test_an_executor_that_cannot_draw_says_so_in_one_sentence(arguments):
    ended = subprocess.run(
        [sys.executable, '-m', 'robomd_ros.nodes.policy_executor', '--ros-args', '-p',
         f'policy:={arguments["policy"]}'],
        capture_output=True, text=True, timeout=60, env={**os.environ, 'MUJOCO_GL': 'glfw'})
    assert ended.returncode == 2
    assert len([line for line in ended.stderr.splitlines() if 'MUJOCO_GL' in line]) == 1
    assert 'Traceback' not in ended.stderr


def wait_for_log(folder, name, text):
    limit = time.monotonic() + 60
    while text not in (folder / f'{name}.log').read_text():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.parametrize('signals', [
    [signal.SIGINT, signal.SIGINT],  # `ros2 launch` delivers a Ctrl-C twice
    [signal.SIGTERM]])
def test_the_nodes_end_cleanly(arguments, folder, monkeypatch, signals):
    monkeypatch.setenv('ROS_DOMAIN_ID', '102')  # beside the other graph
    with puppet.running(arguments, without=('diagnose',)) as processes:
        wait_for_log(folder, EXECUTOR, 'is loaded')
        for number in signals:
            for process in processes.values():
                process.send_signal(number)
            time.sleep(0.05)
        codes = {name: process.wait(10) for name, process in processes.items()}
    assert codes == dict.fromkeys(processes, 0)
    for name in processes:
        assert 'Traceback' not in (folder / f'{name}.log').read_text()
