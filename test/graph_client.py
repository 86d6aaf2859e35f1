# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A node that asks those of a graph, for the tests of them."""

import threading

import rclpy
from rclpy.action import ActionClient
from robomd_ros.action import Diagnose, ExecuteRollout
from robomd_ros.ros.links import Links

EXECUTOR = 'policy_executor_0'


class Client:
    """A node that spins in a thread of its own and is asked from this one."""

    def __init__(self):
        rclpy.init()
        self.node = rclpy.create_node('client')
        self.links = Links(self.node)
        self.diagnoser = ActionClient(self.node, Diagnose, 'diagnoser/diagnose')
        self.executor = ActionClient(
            self.node, ExecuteRollout, f'{EXECUTOR}/execute_rollout')
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _spin(self):
        try:
            rclpy.spin(self.node)
        except rclpy.executors.ExternalShutdownException:
            pass

    def close(self):
        rclpy.shutdown()
        self._thread.join()

    def ask(self, start, *values, seconds=20.0, **others):
        """Have the spinning thread call what returns a future; return what that brings."""
        done, answers = threading.Event(), []

        def begin():
            start(*values, **others).add_done_callback(finish)

        def finish(future):
            answers.append(future.result())
            done.set()

        self.node.executor.create_task(begin)
        assert done.wait(seconds), 'no answer'
        return answers[0]

    def send(self, client, goal, **others):
        assert client.wait_for_server(10.0)
        handle = self.ask(client.send_goal_async, goal, **others)
        assert handle.accepted
        return handle

    def result(self, client, goal, **others):
        return self.ask(self.send(client, goal, **others).get_result_async)

    def call(self, kind, name, request):
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(10.0)
        answer = self.ask(client.call_async, request)
        self.node.destroy_client(client)
        return answer

    def hear(self, kind, topic, qos=10, seconds=15.0, until=lambda message: True):
        """Return the first message on the topic that is as wanted."""
        heard, messages = threading.Event(), []

        def take(message):
            if until(message):
                messages.append(message)
                heard.set()

        subscription = self.node.create_subscription(kind, topic, take, qos)
        assert heard.wait(seconds), f'nothing on {topic}'
        self.node.destroy_subscription(subscription)
        return messages[0]
