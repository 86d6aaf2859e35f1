# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The diagnoser and GraphRunner: a diagnosis through the graph, its errors and its going on."""

import sqlite3
import threading
import time

from action_msgs.msg import GoalStatus
from graph_client import Client, EXECUTOR
import puppet
import pytest
from robomd_ros import msg
from robomd_ros.action import Diagnose
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.errors import UserError
from robomd_ros.rollouts import RolloutRequest
from robomd_ros.ros.conversions import image_from_msg
from robomd_ros.ros.node import ALIVE, LATCHED
from robomd_ros.ros.runner import GraphRunner
from sensor_msgs.msg import Image

CATALOGUE = load_catalogue(default_catalogue('lift'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('nodes')


@pytest.fixture(scope='module')
def processes(folder):
    with puppet.running(puppet.arguments(folder), without=('diagnose',)) as processes:
        yield processes


@pytest.fixture(scope='module')
def client(processes):
    client = Client()
    client.links.wait(1, 60, threading.Event(), print)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def still(folder):
    yield
    puppet.say(folder, '')


def diagnosis(folder, name, **others):
    return Diagnose.Goal(**{'task': 'lift', 'searcher': 'sweep', 'rollouts': 22, 'seed': 0,
                            'out': str(folder / name), **others})


def rows(folder, out):
    with sqlite3.connect(f'file:{folder / out}/ledger.sqlite?mode=ro', uri=True) as ledger:
        return ledger.execute('SELECT key, verdict FROM rollouts WHERE ended > 0').fetchall()


def test_a_diagnosis_goes_through_the_graph(client, folder):
    states = []
    answer = client.result(client.diagnoser, diagnosis(folder, 'whole'), seconds=60,
                           feedback_callback=lambda m: states.append(m.feedback.state))
    result = answer.result
    assert (answer.status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, result.NONE)
    assert result.path == str(folder / 'whole' / 'failure_map.json')
    found = result.failure_map
    assert (found.rollouts_done, found.nominal.n, found.nominal.failures) == (22, 1, 1)
    assert [row.n for row in found.perturbations] == [1] * 21
    assert sorted(row.name for row in found.perturbations) == sorted(CATALOGUE.names)
    assert len(rows(folder, 'whole')) == 22
    phases = [state.phase for state in states]
    assert phases[0] == msg.RunState.CONNECTING and phases[-1] == msg.RunState.FINISHED
    assert msg.RunState.RUNNING in phases and states[-1].rollouts_done == 22
    latched = client.hear(msg.FailureMap, 'failure_map', LATCHED)
    assert str(latched) == str(found)  # NaN is not equal to itself
    assert str(client.hear(msg.RunState, 'diagnoser/run_state', ALIVE)) == str(states[-1])
    picture = image_from_msg(client.hear(Image, 'failure_map/image', LATCHED))
    assert picture.shape[0] > 300 and picture.std() > 10


def test_another_diagnosis_in_the_same_folder_is_refused(client, folder):
    result = client.result(client.diagnoser, diagnosis(folder, 'whole', seed=1)).result
    assert result.error_code == result.OTHER_RUN and 'seed' in result.error_msg


@pytest.mark.parametrize(('given', 'code', 'why'), [
    ({'task': 'fly'}, Diagnose.Result.BAD_GOAL, "Unknown task 'fly'"),
    ({'searcher': 'luck'}, Diagnose.Result.BAD_GOAL, "Unknown searcher 'luck'"),
    ({'rollouts': 0}, Diagnose.Result.BAD_GOAL, '0 rollouts are too few'),
    ({'seed': -1}, Diagnose.Result.BAD_GOAL, 'seed must be a whole number from 0 to 2147483647'),
    ({'seed': 2**31}, Diagnose.Result.BAD_GOAL, 'seed must be a whole number from 0 to '),
    ({'reward': 'gold'}, Diagnose.Result.BAD_GOAL, "Unknown reward 'gold'; choose one of paper"),
    ({'max_perturbations': 21}, Diagnose.Result.BAD_GOAL, 'max_perturbations must be a whole'),
    ({'out': ''}, Diagnose.Result.BAD_GOAL, 'out is empty'),
    ({'catalogue': '/nowhere.yaml'}, Diagnose.Result.BAD_GOAL, 'There is no catalogue'),
    ({'out': '/dev/null/out'}, Diagnose.Result.CANNOT_WRITE, '/dev/null/out cannot be written')])
def test_a_bad_goal_gets_one_sentence(client, folder, given, code, why):
    answer = client.result(client.diagnoser, diagnosis(folder, 'bad', **given))
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.error_code == code
    assert answer.result.error_msg.startswith(why) and answer.result.error_msg.endswith('.')


def test_a_policy_that_only_misbehaves_stops_the_diagnosis(client, folder):
    puppet.say(folder, 'nan')
    result = client.result(client.diagnoser, diagnosis(folder, 'nan')).result
    assert result.error_code == result.POLICY_UNUSABLE
    assert 'policy_returned_nan' in result.error_msg
    assert result.failure_map.rollouts_done == 3
    assert [verdict for _, verdict in rows(folder, 'nan')] == ['invalid'] * 3


def test_a_diagnosis_can_be_canceled_and_goes_on(client, folder):
    puppet.say(folder, 'slow')
    running = threading.Event()

    def feedback(message):
        if message.feedback.state.rollouts_done >= 3:
            running.set()

    handle = client.send(client.diagnoser, diagnosis(folder, 'half'), feedback_callback=feedback)
    assert running.wait(30)
    busy = client.result(client.diagnoser, diagnosis(folder, 'other')).result
    assert busy.error_code == busy.BUSY
    began = time.monotonic()
    client.ask(handle.cancel_goal_async)
    answer = client.ask(handle.get_result_async)
    assert time.monotonic() - began < 3.0
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert answer.result.error_code == Diagnose.Result.CANCELED
    before = rows(folder, 'half')
    assert 3 <= len(before) == answer.result.failure_map.rollouts_done < 22
    puppet.say(folder, '')
    answer = client.result(client.diagnoser, diagnosis(folder, 'half'))
    assert answer.result.error_code == 0
    assert len(rows(folder, 'half')) == 22 and set(before) < set(rows(folder, 'half'))


def test_the_runner_is_safe_to_call_from_several_threads(client):
    executors = client.links.wait(1, 10, threading.Event(), print)
    runner = GraphRunner(client.node, client.links, executors)
    assert (runner.parallel, runner.horizon) == (1, 5)
    results = {}

    def work(worker):
        requests = [RolloutRequest(f'{worker}/{i}', NOMINAL, worker, i) for i in range(3)]
        results[worker] = [result.request for result in runner.run(requests)] == requests

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    runner.close()
    assert results == {0: True, 1: True, 2: True}


def test_another_catalogue_than_the_managers_is_noticed(client):
    executors = client.links.wait(1, 10, threading.Event(), print)
    runner = GraphRunner(client.node, client.links, executors)
    other = Condition((Perturbation('red_table', 'table.color', (0.9, 0.0, 0.0), 'Change it'),))
    with pytest.raises(UserError, match='different catalogues, .* knows another red_table'):
        list(runner.run([RolloutRequest('a', other, 0, 0)]))
    runner.close()


def test_an_executor_that_dies_ends_the_diagnosis(client, processes, folder):
    puppet.say(folder, 'slow')
    running = threading.Event()
    handle = client.send(client.diagnoser, diagnosis(folder, 'dead', rollouts=200),
                         feedback_callback=lambda message: running.set())
    assert running.wait(15)
    time.sleep(1.0)
    processes[EXECUTOR].kill()
    result = client.ask(handle.get_result_async).result
    assert result.error_code == result.NO_EXECUTOR
    assert result.error_msg == (
        f'{EXECUTOR} has died or cannot be reached; the same command goes on from here.')
