# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""World: where a policy acts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from robomd_ros.conditions import Condition

# What a policy sees, by robosuite's names: '<camera>_image' is (height, width, 3) uint8 RGB,
# upright; 'robot0_eef_pos' (3,) m in the world frame; 'robot0_eef_quat' (4,) xyzw;
# 'robot0_gripper_qpos' (2,) m; 'robot0_joint_pos' (7,) rad; ...
Observation = dict[str, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """
    What became of a rollout.

    verdict: 'success', 'failure' or 'invalid'.
    reason: why it is invalid, else empty.
    confidence: how sure the judge is, 0 to 1.
    source: who judged, e.g. 'simulator'.
    """

    verdict: str
    reason: str = ''
    confidence: float = 1.0
    source: str = ''


@dataclass(frozen=True)
class WorldInfo:
    """
    What a result from this world depends on: recorded with every ledger.

    world: 'mujoco'. task: e.g. 'lift'. model_digest: SHA-256 of the compiled nominal model.
    fidelity: 'fast' or 'full'. renderer: the OpenGL back end. horizon: control steps.
    instruction: the task's sentence.
    """

    world: str
    task: str
    model_digest: str
    fidelity: str
    renderer: str
    horizon: int
    instruction: str


@dataclass(frozen=True)
class PolicyNeeds:
    """
    What a policy must be shown and what it answers.

    images: camera name -> (height, width) in pixels; shown as '<camera>_image'.
    state: names of the other observations, e.g. 'robot0_eef_pos'.
    action_size: how many numbers it answers, each in [-1, 1].
    fidelity: the pictures it was trained on: 'full' (robosuite's own) or 'fast'.
    """

    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    action_size: int = 7
    fidelity: str = 'full'


class World(Protocol):
    """Where a policy acts: MuJoCo or a real cell."""

    info: WorldInfo

    def reset(self, condition: Condition, seed: int, trial: int) -> Observation:
        """
        Set the scene to the condition and the initial state that (seed, trial) names.

        Raises UserError if the world cannot be set to the condition.
        """
        ...

    def step(self, action: np.ndarray) -> Observation:
        """Carry out one control step; action is the policy's, each component in [-1, 1]."""
        ...

    def outcome(self) -> Outcome | None:
        """Return what became of the rollout, or None while it is not over."""
        ...

    def state(self) -> np.ndarray:
        """Return where robot and objects are and how they move, for restore; as if nominal."""
        ...

    def restore(self, condition: Condition, state: np.ndarray) -> Observation:
        """
        Set the scene to the condition with robot and objects in a state, and look; nothing moves.

        The same state under the same condition gives the same bits.
        Raises UserError if the world cannot be set to the condition.
        """
        ...

    def picture(self) -> np.ndarray:
        """Return the scene now as (84, 84, 3) uint8 RGB, whatever cameras the policy has."""
        ...

    def close(self) -> None:
        """Free what the world holds; the world cannot be used afterwards."""
        ...
