# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures of a task's scene under each of its perturbations."""

import numpy as np
from robomd_ros.conditions import Catalogue, Condition, NOMINAL
from robomd_ros.worlds.mujoco_world import MujocoWorld
from robomd_ros.worlds.protocol import PolicyNeeds

SIZE = 256    # pixels, square
SETTLING = 5  # control steps after which objects lie still
STANDING = np.array([0, 0, 0, 0, 0, 0, -1.0])  # the action that leaves the hand where it is, open


def render_scenes(task: str, catalogue: Catalogue, fidelity: str) -> dict[str, np.ndarray]:
    """
    Return condition label -> (256, 256, 3) uint8 RGB.

    The conditions are nominal and every perturbation alone.
    """
    world = MujocoWorld(task, PolicyNeeds(), fidelity)
    scenes = {}
    for condition in (NOMINAL, *(Condition((perturbation,)) for perturbation in catalogue)):
        world.reset(condition, seed=0, trial=0)
        for _ in range(SETTLING):
            world.step(STANDING)
        scenes[condition.label] = world.draw(SIZE, SIZE)
    world.close()
    return scenes
