# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The failure map as a picture, for rqt and RViz."""

from concurrent.futures import ThreadPoolExecutor

from rclpy.node import Node
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.ros.conversions import image_to_msg
from robomd_ros.ros.node import LATCHED
from sensor_msgs.msg import Image

_EVERY = 2.0  # s between two pictures


class MapPainter:
    """Publishes the latest failure map as a picture, latched, while somebody looks."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(Image, 'failure_map/image', LATCHED)
        self._thread = ThreadPoolExecutor(1)
        self._latest: FailureMap | None = None
        node.create_timer(_EVERY, self._look)

    def show(self, failure_map: FailureMap) -> None:
        """Take the map as the latest one; callable from any thread."""
        self._latest = failure_map

    def _look(self) -> None:
        if self._latest is not None and self._publisher.get_subscription_count():
            self._thread.submit(self._paint, self._latest)
            self._latest = None

    def _paint(self, failure_map: FailureMap) -> None:
        from robomd_ros.reports import map_image  # brings Matplotlib

        stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(image_to_msg(map_image(failure_map), stamp, 'failure_map'))
