# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The tasks: what stands in the scene and what its parts are called."""

from collections.abc import Mapping
from dataclasses import dataclass

from robomd_ros.errors import UserError


@dataclass(frozen=True)
class Task:
    """
    One task of robosuite.

    name: what users call it. environment: robosuite's name. robot: robosuite's name.
    instruction: what the policy is told to do. horizon: control steps a rollout gets, at 20 Hz.
    camera: the camera whose picture is shown to searchers and people.
    parts: part -> patterns (fnmatch) of the names of its MuJoCo geoms; light and camera are parts
    of every task.
    bodies: part -> name of the body that carries its mass, where it has one.
    """

    name: str
    environment: str
    robot: str
    instruction: str
    horizon: int
    camera: str
    parts: Mapping[str, tuple[str, ...]]
    bodies: Mapping[str, str]


TASKS = {
    task.name: task for task in (
        Task(
            name='lift', environment='Lift', robot='Panda', instruction='lift the red cube',
            horizon=100, camera='agentview',
            parts={
                'cube': ('cube_g0', 'cube_g0_vis'),
                'table': ('table_collision', 'table_visual'),
                'robot': ('robot0_*', 'gripper0_right_*'),
                'arm': ('robot0_*',),
                'gripper': ('gripper0_right_*',),
                'floor': ('floor',),
                'wall': ('wall_*',),
            },
            bodies={'cube': 'cube_main'}),
    )
}


def get_task(name: str) -> Task:
    """Return the task of that name; raise UserError naming the known ones if there is none."""
    try:
        return TASKS[name]
    except KeyError:
        known = ', '.join(sorted(TASKS))
        raise UserError(f'Unknown task {name!r}; the known tasks are: {known}.') from None
