# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scripted experts: policies that see where the objects are, to make demonstrations with."""

from collections.abc import Callable

import numpy as np
from robomd_ros.errors import UserError
from robomd_ros.worlds.protocol import Observation

GAIN = 20.0      # action per metre; an action of 1 moves the hand 5 cm
ABOVE = 0.08     # m over the object while the hand is not above it yet
ALIGNED = 0.012  # m to the side at which the hand may go down
OPENED = 0.07    # m between the fingers from which they count as open; open they are 0.08 apart
STILL = 0.01     # m/s under which a finger counts as stopped, by the cube between them
HELD = 0.015     # m between hand and object while it is held
OPEN, CLOSE = -1.0, 1.0


def lift_expert(observation: Observation) -> np.ndarray:
    """
    Return the action (7,) that lifts robosuite's cube: hover, descend, grasp, rise.

    A function of the observation alone (cube_pos, robot0_eef_pos, robot0_gripper_qpos and _qvel),
    so that it can say what it would have done wherever another policy went.
    """
    hand, cube = observation['robot0_eef_pos'], observation['cube_pos']
    fingers = observation['robot0_gripper_qpos']
    offset = cube - hand
    aside = np.linalg.norm(offset[:2])
    action = np.zeros(7)
    action[6] = OPEN
    if aside > ALIGNED and np.linalg.norm(offset) > HELD:
        height = ABOVE if aside > 2 * ALIGNED else ABOVE * (aside - ALIGNED) / ALIGNED
        action[:3] = GAIN * (offset + [0, 0, height])
    elif -offset[2] > HELD / 2:
        action[:3] = GAIN * offset
    else:
        action[6] = CLOSE
        action[:3] = GAIN * offset
        if (fingers[0] - fingers[1] < OPENED
                and abs(observation['robot0_gripper_qvel']).max() < STILL):
            action[2] = 1.0
    return np.clip(action, -1.0, 1.0)


# task -> (expert, the observations it needs)
EXPERTS: dict[str, tuple[Callable[[Observation], np.ndarray], tuple[str, ...]]] = {
    'lift': (lift_expert,
             ('cube_pos', 'robot0_eef_pos', 'robot0_gripper_qpos', 'robot0_gripper_qvel')),
}


def get_expert(task: str) -> tuple[Callable[[Observation], np.ndarray], tuple[str, ...]]:
    """Return a task's expert and the observations it needs; raise UserError if it has none."""
    try:
        return EXPERTS[task]
    except KeyError:
        raise UserError(f'There is no scripted expert for the task {task!r}; there are for: '
                        f'{", ".join(sorted(EXPERTS))}.') from None
