# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a node says of its health on /diagnostics."""

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR

Health = tuple[bytes, str, Mapping[str, object]]  # level, one sentence, values by name


class Diagnostics:
    """Publishes at 1 Hz what a function says of its node's health."""

    def __init__(self, node: Node, health: Callable[[], Health]) -> None:
        self._node = node
        self._health = health
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 1)
        node.create_timer(1.0, self.publish)

    def publish(self) -> None:
        """Publish the node's health now."""
        level, message, values = self._health()
        status = DiagnosticStatus(
            level=level, name=self._node.get_name(), message=message, hardware_id='robomd_ros',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
