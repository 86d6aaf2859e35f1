# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The diagnoser and GraphRunner: a diagnosis through the graph, its errors and its going on."""

import json
import math
from pathlib import Path
import shutil
import sqlite3
import threading
import time

from action_msgs.msg import GoalStatus
from graph_client import EXECUTOR
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
def arguments(folder):
    """Have a policy that sees, so that its actions deviate when the scene is changed."""
    given = puppet.arguments(folder)
    shutil.copy(Path(__file__).with_name('watcher.py'), folder)
    return given | {'policy': f'python:{folder}/watcher.py:make'}


def diagnosis(folder, name, **others):
    return Diagnose.Goal(**{'task': 'lift', 'searcher': 'sweep', 'rollouts': 22, 'seed': 0,
                            'out': str(folder / name), **others})


def rows(folder, out):
    with sqlite3.connect(f'file:{folder / out}/ledger.sqlite?mode=ro', uri=True) as ledger:
        return ledger.execute('SELECT key, verdict FROM rollouts WHERE ended > 0').fetchall()


def test_a_diagnosis_goes_through_the_graph(client, folder):
    states, stopped = [], []

    def feedback(message):
        states.append(message.feedback.state)
        stopped.append(message.feedback.failure_map.stopped)

    answer = client.result(client.diagnoser, diagnosis(folder, 'whole', rollouts=41), seconds=60,
                           feedback_callback=feedback)
    result = answer.result
    assert (answer.status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, result.NONE)
    assert result.path == str(folder / 'whole' / 'failure_map.json')
    found = result.failure_map
    assert (found.rollouts_done, found.nominal.n, found.nominal.failures) == (41, 20, 20)
    assert sorted(row.name for row in found.perturbations) == sorted(CATALOGUE.names)
    for row in found.perturbations:  # a sweep's rollouts are planned, and nominal fails as often
        assert (row.n, row.pairs, row.source, row.verdict) == (
            1, 1, row.CONFIRMATION, row.NOT_SHOWN)
        assert (row.difference, row.p_holm, row.discovery_n) == (0.0, 1.0, 0)
    assert found.findings and not found.conditions
    assert len(rows(folder, 'whole')) == 41
    phases = [state.phase for state in states]
    assert phases[0] == msg.RunState.CONNECTING and phases[-1] == msg.RunState.FINISHED
    assert msg.RunState.RUNNING in phases and states[-1].rollouts_done == 41
    assert set(stopped[:-1]) == {''} and stopped[-1] == found.stopped
    assert states[-1].detail == f'The diagnosis is done. {found.stopped}' and found.stopped
    latched = client.hear(msg.FailureMap, 'failure_map', LATCHED)
    assert str(latched) == str(found)  # NaN is not equal to itself
    assert str(client.hear(msg.RunState, 'diagnoser/run_state', ALIVE)) == str(states[-1])
    picture = image_from_msg(client.hear(Image, 'failure_map/image', LATCHED))
    assert picture.shape[0] > 300 and picture.std() > 10


def test_another_diagnosis_in_the_same_folder_is_refused(client, folder):
    result = client.result(client.diagnoser, diagnosis(folder, 'whole', seed=1)).result
    assert result.error_code == result.OTHER_RUN and 'seed' in result.error_msg


def test_a_searcher_has_the_suspicion_measured_by_the_executors(client, folder):
    goal = diagnosis(folder, 'gp', searcher='gp', rollouts=30, confirm_share=0.4)
    details = []
    result = client.result(
        client.diagnoser, goal, seconds=120,
        feedback_callback=lambda message: details.append(message.feedback.state.detail)).result
    assert (result.error_code, result.error_msg) == (result.NONE, '')
    assert any(detail.startswith('The policy is asked what it would do') for detail in details)
    found = result.failure_map
    measured = json.loads((folder / 'gp' / 'suspicion.json').read_text())['suspicion']
    assert {row.name: row.suspicion for row in found.perturbations} == measured['deviation']
    assert max(measured['deviation'].values()) > 0 and math.isnan(found.nominal.suspicion)
    assert all(0 < row.estimate < 1 for row in found.perturbations)
    # 12 rollouts are kept for confirmation; half of the others are of the nominal scene.
    assert sum(row.discovery_n for row in found.perturbations) == 9
    confirmed = [row for row in found.perturbations if row.source == row.CONFIRMATION]
    assert confirmed and sum(row.n for row in confirmed) + found.nominal.n == 12 + 9
    assert {key.partition('/')[0] for key, _ in rows(folder, 'gp')} == {'control', 'gp', 'confirm'}


@pytest.mark.parametrize(('given', 'code', 'why'), [
    ({'task': 'fly'}, Diagnose.Result.BAD_GOAL, "Unknown task 'fly'"),
    ({'searcher': 'luck'}, Diagnose.Result.BAD_GOAL, "Unknown searcher 'luck'"),
    ({'rollouts': 0}, Diagnose.Result.BAD_GOAL, 'rollouts must be a whole number from 1 to '),
    ({'rollouts': 1_000_001}, Diagnose.Result.BAD_GOAL, 'rollouts must be a whole number from 1 '),
    ({'seed': -1}, Diagnose.Result.BAD_GOAL, 'seed must be a whole number from 0 to 2147483647'),
    ({'seed': 2**31}, Diagnose.Result.BAD_GOAL, 'seed must be a whole number from 0 to '),
    ({'reward': 'gold'}, Diagnose.Result.BAD_GOAL, "Unknown reward 'gold'; choose one of paper"),
    ({'max_perturbations': 21}, Diagnose.Result.BAD_GOAL, 'max_perturbations must be a whole'),
    ({'stop': 'early'}, Diagnose.Result.BAD_GOAL, "Unknown stop 'early'; choose one of budget"),
    ({'control_share': 0.95}, Diagnose.Result.BAD_GOAL, 'control_share must be a number from 0 '),
    ({'confirm_share': 0.95}, Diagnose.Result.BAD_GOAL, 'confirm_share must be a number from 0 '),
    ({'settle_top': 1001}, Diagnose.Result.BAD_GOAL, 'settle_top must be a whole number from 1 '),
    ({'settle_within': 1.5}, Diagnose.Result.BAD_GOAL, 'settle_within must be a number from 0 '),
    ({'out': ''}, Diagnose.Result.BAD_GOAL, 'out is empty'),
    ({'catalogue': '/nowhere.yaml'}, Diagnose.Result.BAD_GOAL, 'There is no catalogue'),
    ({'out': '/dev/null/out'}, Diagnose.Result.CANNOT_WRITE, '/dev/null/out cannot be written')])
def test_a_bad_goal_gets_one_sentence(client, folder, given, code, why):
    answer = client.result(client.diagnoser, diagnosis(folder, 'bad', **given))
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.error_code == code
    assert answer.result.error_msg.startswith(why) and answer.result.error_msg.endswith('.')


def test_a_policy_that_only_misbehaves_stops_the_diagnosis(client, folder, say):
    say('nan')
    result = client.result(client.diagnoser, diagnosis(folder, 'nan')).result
    assert result.error_code == result.POLICY_UNUSABLE
    assert 'policy_returned_nan' in result.error_msg
    assert result.failure_map.rollouts_done == 3
    assert [verdict for _, verdict in rows(folder, 'nan')] == ['invalid'] * 3


def test_a_diagnosis_can_be_canceled_and_goes_on(client, folder, say):
    say('slow')
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
    say('')
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


def test_an_executor_that_dies_ends_the_diagnosis(client, processes, folder, say):
    say('slow')
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
