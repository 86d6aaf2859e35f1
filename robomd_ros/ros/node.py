# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every node does alike: parameters, QoS, start and stop, and the life cycle."""

from collections.abc import Callable
from contextlib import suppress
import signal
import traceback
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from robomd_ros.errors import UserError

# For what is published once and must reach those who come later too.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)
# The same, and subscribers learn within 5 s that the publisher's process is gone, however it went.
ALIVE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                   durability=DurabilityPolicy.TRANSIENT_LOCAL,
                   liveliness=LivelinessPolicy.AUTOMATIC,
                   liveliness_lease_duration=Duration(seconds=5))
# s that servers of many short goals keep a result: each status message names all that are kept.
RESULT_TIMEOUT = 2


def declare(node: Node, name: str, default: Any, description: str, low: int | None = None,
            high: float = 2**31 - 1) -> Any:
    """
    Declare a parameter that is set at start only; return its value.

    low, high: of a whole number; high alone of a share, from 0 on, whose default is a float.
    Raises UserError if it was set to a value of another type or out of range.
    """
    about = ParameterDescriptor(description=description, read_only=True)
    wanted = ''
    if low is not None:
        about.integer_range = [IntegerRange(from_value=low, to_value=int(high), step=1)]
        wanted = f'{name} must be a whole number from {low} to {high}'
    elif isinstance(default, float):
        about.floating_point_range = [FloatingPointRange(from_value=0.0, to_value=high)]
        wanted = f'{name} must be a number from 0.0 to {high}'
    try:
        return node.declare_parameter(name, default, about).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise UserError(f'{node.get_name()}: {wanted or error}.') from None


def run_node(make: Callable[[], Node]) -> int:
    """
    Make a node, spin it until it is told to stop, and return the exit code of the process.

    The code is 2, with one sentence logged, if the user gave something that cannot be used, and 0
    after Ctrl-C or SIGTERM.
    """
    rclpy.init()
    node = None
    try:
        node = make()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except UserError as error:
        get_logger('robomd_ros').fatal(str(error))
        return 2
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # under `ros2 launch` a Ctrl-C comes twice
        if node is not None:
            node.destroy_node()
        with suppress(RuntimeError):  # the signal's own handler may be at it at the same time
            rclpy.try_shutdown()
    return 0


def settle(node: Node, future: Future, result: object) -> None:
    """Give the future its result, from any thread, and have the spinning thread look at it."""
    future.set_result(result)
    if node.executor is not None:
        node.executor.wake()


class ManagedNode(LifecycleNode):
    """
    A lifecycle node that can configure and activate itself, so that it needs no manager.

    Subclasses override load and unload and call start at the end of their constructor.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.active = False
        self._starting = False
        self._fault: Exception | None = None
        self._autostart = declare(
            self, 'autostart', True, 'Whether the node configures and activates itself at start.')

    def load(self) -> None:
        """Get what the node needs to work; raise UserError if it cannot be had."""

    def unload(self) -> None:
        """Give back what load got."""

    def start(self) -> None:
        """Configure and activate the node if it is to do so itself; raise what load raises."""
        if self._autostart:
            self._starting = True
            self.trigger_configure()
            self._starting = False
            if self._fault is not None:
                raise self._fault
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load; what goes wrong is noted here, since rclpy would drop it."""
        try:
            self.load()
        except Exception as error:
            self._fault = error
            if not self._starting:  # else start raises it
                known = isinstance(error, UserError)
                self.get_logger().error(str(error) if known else traceback.format_exc())
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take up work."""
        self.active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more work; what is under way goes on to its end."""
        self.active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unload."""
        self.unload()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more work."""
        self.active = False
        return super().on_shutdown(state)
