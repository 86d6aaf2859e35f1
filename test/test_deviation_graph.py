# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The deviation of actions measured through the graph: shared, refused and canceled."""

from pathlib import Path
import shutil
import threading
import time

from action_msgs.msg import GoalStatus
from graph_client import EXECUTOR
import puppet
import pytest
from robomd_ros.action import ExecuteRollout, MeasureDeviation
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy
from robomd_ros.rollouts import (
    LocalRunner,
    PolicyUnusable,
    RolloutCanceled,
    RolloutRequest,
    RunnerError,
)
from robomd_ros.ros.conversions import condition_to_msg
from robomd_ros.ros.runner import GraphRunner
from robomd_ros.worlds.mujoco_world import MujocoWorld

CATALOGUE = load_catalogue(default_catalogue('lift'))
CONDITIONS = [NOMINAL, *(CATALOGUE.condition(names) for names in (
    ['red_table'], ['big_cube'], ['gray_light'], ['red_robot', 'green_light']))]
HORIZON = 7


@pytest.fixture(scope='module')
def arguments(folder):
    shutil.copy(Path(__file__).with_name('watcher.py'), folder)
    return puppet.arguments(folder, executors=2, horizon=HORIZON) | {
        'policy': f'python:{folder}/watcher.py:make'}


@pytest.fixture(scope='module')
def executors(client):
    limit = time.monotonic() + 60
    found = client.links.executors
    while len(found) < 2 or not all(each.ready for each in found.values()):
        assert time.monotonic() < limit
        time.sleep(0.1)
    return [found[name] for name in sorted(found)]


@pytest.fixture
def runner(client, executors):
    runner = GraphRunner(client.node, client.links, executors)
    yield runner
    runner.close()


def goal(*conditions, seed=3):
    return MeasureDeviation.Goal(
        conditions=[condition_to_msg(each) for each in conditions or CONDITIONS], seed=seed)


def test_two_executors_find_what_one_process_does(runner, arguments):
    told = []
    found = runner.deviations(CONDITIONS, 3, told.append)
    policy = load_policy(arguments['policy'], 'lift')
    world = MujocoWorld('lift', policy.needs, horizon=HORIZON)
    assert found == LocalRunner(world, policy).deviations(CONDITIONS, 3)
    world.close()
    assert len({each.translation for each in found}) == 5 and found[0].translation == 0.0
    assert {(each.states, each.rollouts) for each in found} == {(4 * 3, 4)}  # steps 0, 3 and 6
    assert told == sorted(told) and told[-1] == len(CONDITIONS)
    assert runner.deviations(CONDITIONS[2:3], 3, told.append) == found[2:3]
    assert runner.deviations([], 3, told.append) == []


def test_the_action_answers_and_tells_how_far_it_is(client, executors, say):
    say('slow')
    done = []
    answer = client.result(executors[0].deviations, goal(), seconds=60,
                           feedback_callback=lambda message: done.append(message.feedback.done))
    result = answer.result
    assert (answer.status, result.error_code, result.error_msg) == (
        GoalStatus.STATUS_SUCCEEDED, result.NONE, '')
    assert len(result.translation) == len(result.gripper) == len(CONDITIONS)
    assert len(done) > 3 and done == sorted(done) and done[0] == 0 < done[-1] <= len(CONDITIONS)


def test_a_condition_that_cannot_be_is_refused(runner):
    ghost = Condition((Perturbation('ghost', 'body:ghost.mass', 1.0, 'Weigh it'),))
    with pytest.raises(UserError, match='ghost'):
        runner.deviations([*CONDITIONS, ghost], 3, print)
    assert len(runner.deviations(CONDITIONS, 3, print)) == len(CONDITIONS)


@pytest.mark.parametrize(('mode', 'why'), [
    ('nan', 'policy_returned_nan'), ('raise', 'policy_raised RuntimeError: the strings are cut')])
def test_a_policy_without_actions_is_unusable(runner, say, mode, why):
    say(mode)
    with pytest.raises(PolicyUnusable) as refused:
        runner.deviations(CONDITIONS, 3, print)
    assert why in str(refused.value) and str(refused.value).endswith('.')


def test_one_goal_at_a_time_and_it_can_be_canceled(client, executors, say):
    say('slow')
    running = threading.Event()
    first = client.send(executors[0].deviations, goal(*CONDITIONS * 20),
                        feedback_callback=lambda message: running.set())
    assert running.wait(15)
    rollout = ExecuteRollout.Goal(condition=condition_to_msg(NOMINAL), seed=1, trial=2)
    for other, asked in ((executors[0].rollouts, rollout), (executors[0].deviations, goal())):
        answer = client.result(other, asked)
        assert answer.status == GoalStatus.STATUS_ABORTED
        assert answer.result.error_code == answer.result.BUSY
    began = time.monotonic()
    client.ask(first.cancel_goal_async)
    answer = client.ask(first.get_result_async)
    assert time.monotonic() - began < 2.0
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert answer.result.error_code == MeasureDeviation.Result.CANCELED
    assert client.result(executors[0].rollouts, rollout).result.error_code == 0


def test_the_runner_stops_when_it_is_canceled(runner, say):
    say('slow')
    timer = threading.Timer(1.0, runner.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(RolloutCanceled):
        runner.deviations(CONDITIONS * 20, 3, print)
    assert time.monotonic() - began < 5.0


def test_an_executor_that_dies_is_named(runner, processes, say):
    say('slow')
    timer = threading.Timer(1.0, processes[EXECUTOR].kill)
    timer.start()
    with pytest.raises(RunnerError, match=f'{EXECUTOR} has died or cannot be reached'):
        runner.deviations(CONDITIONS * 20, 3, print)
    with pytest.raises(RunnerError, match=EXECUTOR):
        list(runner.run([RolloutRequest(str(n), NOMINAL, 0, n) for n in range(2)]))
