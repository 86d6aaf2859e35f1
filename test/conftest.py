# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The environment of every test and of the processes it starts; read before mujoco or rclpy is.

And the fixtures of the tests that ask the nodes of a graph, which is started once for a file.
"""

import os
import threading

import pytest

os.environ.setdefault('MUJOCO_GL', 'egl')  # no display; must be set before mujoco is imported
os.environ['OMP_NUM_THREADS'] = '1'  # the processes of a graph share two cores
# Nothing leaves the machine, and a 640x480 image fits a segment.
os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'SHM?max_msg_size=1MB&sockets_size=2MB'
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)  # 101 is the highest there is
for variable in ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'):  # would hinder discovery
    os.environ.pop(variable, None)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where the policy of the graph lives, and what its nodes write."""
    return tmp_path_factory.mktemp('nodes')


@pytest.fixture(scope='module')
def arguments(folder):
    """Return the arguments of the graph."""
    import puppet

    return puppet.arguments(folder)


@pytest.fixture(scope='module')
def processes(arguments):
    """Run all processes of the graph but the client; they are returned by name."""
    import puppet

    with puppet.running(arguments, without=('diagnose',)) as processes:
        yield processes


@pytest.fixture(scope='module')
def client(processes):
    """Return a client of the graph, whose nodes have all answered."""
    from graph_client import Client

    client = Client()
    client.links.wait(1, 60, threading.Event(), print)
    yield client
    client.close()


@pytest.fixture
def say(folder):
    """Return what sets the mode of the puppet, until the end of the test."""
    import puppet

    yield lambda mode: puppet.say(folder, mode)
    puppet.say(folder, '')
