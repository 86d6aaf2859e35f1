# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Diagnose a policy with the whole graph; what is started is described in robomd_ros/graph.py."""

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from robomd_ros.graph import ARGUMENTS, CLIENT, describe, Process, read_arguments


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the nodes."""
    return LaunchDescription([
        *(DeclareLaunchArgument(
            argument.name, default_value=argument.default_text, description=argument.description,
            choices=list(argument.choices) or None) for argument in ARGUMENTS),
        OpaqueFunction(function=_start),
    ])


def _start(context: LaunchContext) -> list[Node]:
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    return [_node(process) for process in describe(read_arguments(given))]


def _node(process: Process) -> Node:
    share = get_package_share_directory('robomd_ros')
    return Node(
        package=process.package, executable=process.executable, name=process.name,
        parameters=[dict(process.parameters)], remappings=list(process.remappings),
        arguments=[word.format(share=share) for word in process.arguments], output='screen',
        # Launch passes on whole lines, so the client had better not show a progress bar.
        emulate_tty=process.executable != CLIENT,
        on_exit=None if process.optional else Shutdown(reason=f'{process.name} has ended'))
