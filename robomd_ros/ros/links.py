# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The nodes a diagnosis needs: finding them, and noticing when one is gone."""

from collections.abc import Callable
from dataclasses import dataclass
import threading
import time

from rclpy.action import ActionClient
from rclpy.event_handler import QoSLivelinessChangedInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from robomd_ros.action import ExecuteRollout, MeasureDeviation, PrepareScene
from robomd_ros.errors import UserError
from robomd_ros.msg import ExecutorInfo
from robomd_ros.rollouts import RolloutCanceled, RunnerError
from robomd_ros.ros.node import ALIVE
from robomd_ros.srv import JudgeRollout

_AGREE = ('task', 'policy_digest', 'world', 'model_digest', 'fidelity', 'horizon', 'instruction')


@dataclass(eq=False)
class ExecutorLink:
    """
    One policy executor.

    rollouts, deviations: clients of its ExecuteRollout and its MeasureDeviation.
    info: what it holds, None while it is not there. heard: when its last feedback came, in s of
    the monotonic clock.
    """

    name: str
    rollouts: ActionClient
    deviations: ActionClient
    info: ExecutorInfo | None = None
    heard: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether it can be asked for all it offers."""
        return (self.info is not None and self.rollouts.server_is_ready()
                and self.deviations.server_is_ready())

    def hear(self, feedback: object) -> None:
        """Note that feedback has come."""
        self.heard = time.monotonic()


class Links:
    """
    Clients of the perturbation manager, the success detector and every policy executor there is.

    lost: called in the spinning thread with an executor that is gone.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.scenes = ActionClient(node, PrepareScene, 'perturbation_manager/prepare_scene')
        self.judge = node.create_client(JudgeRollout, 'success_detector/judge_rollout')
        self.executors: dict[str, ExecutorLink] = {}
        self.lost: Callable[[ExecutorLink], None] = lambda executor: None
        node.create_timer(0.5, self._look)

    def wait(self, count: int, seconds: float, stop: threading.Event,
             progress: Callable[[str], None]) -> list[ExecutorLink]:
        """
        Wait until all nodes are there, with at least count executors; return the executors.

        progress gets a sentence every 5 s. Raises RunnerError after the seconds, RolloutCanceled
        when stop is set, and UserError if the executors hold different things.
        """
        begin = told = time.monotonic()
        while missing := self._missing(count):
            now = time.monotonic()
            if now - begin > seconds:
                raise RunnerError(f'After {seconds:g} s there is still no {missing}; start it.')
            if now - told > 5:
                told = now
                progress(f'Waiting for {missing}.')
            if stop.wait(0.05):
                raise RolloutCanceled('Stopped while waiting for the other nodes.')
        executors = sorted((e for e in self.executors.values() if e.ready), key=lambda e: e.name)
        _check_agree(executors)
        return executors

    def _missing(self, count: int) -> str:
        ready = sum(executor.ready for executor in list(self.executors.values()))
        lacking = {
            'perturbation_manager': not self.scenes.server_is_ready(),
            'success_detector': not self.judge.service_is_ready(),
            f'policy_executor ({ready} of {count} are there)': ready < count,
        }
        return ', '.join(name for name, lacks in lacking.items() if lacks)

    def _look(self) -> None:
        """Link up with the executors that have come."""
        for topic, types in self._node.get_topic_names_and_types():
            name = topic.removeprefix('/').removesuffix('/info')
            if types == ['robomd_ros/msg/ExecutorInfo'] and name not in self.executors:
                self._link(name, topic)

    def _link(self, name: str, topic: str) -> None:
        link = ExecutorLink(
            name, ActionClient(self._node, ExecuteRollout, f'/{name}/execute_rollout'),
            ActionClient(self._node, MeasureDeviation, f'/{name}/measure_deviation'))

        def heard(info: ExecutorInfo) -> None:
            link.info = info

        def changed(event: QoSLivelinessChangedInfo) -> None:
            if event.alive_count == 0:
                link.info = None
            if event.alive_count_change < 0:  # another one may have its name already
                self.lost(link)

        self._node.create_subscription(
            ExecutorInfo, topic, heard, ALIVE,
            event_callbacks=SubscriptionEventCallbacks(liveliness=changed))
        self.executors[name] = link


def _check_agree(executors: list[ExecutorLink]) -> None:
    first = executors[0]
    for other in executors[1:]:
        for field in _AGREE:
            ours, theirs = getattr(first.info, field), getattr(other.info, field)
            if ours != theirs:
                raise UserError(f'{first.name} and {other.name} differ in {field} ({ours} and '
                                f'{theirs}); start them with the same parameters.')
