# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Policy: what is under test."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from robomd_ros.worlds.protocol import Observation


@dataclass(frozen=True)
class PolicyNeeds:
    """What a policy must be shown and what it answers.

    images: camera name -> (height, width) in pixels; shown as '<camera>_image'.
    state: names of the other observations, e.g. 'robot0_eef_pos'.
    action_size: how many numbers it answers, each in [-1, 1].
    fidelity: the pictures it was trained on: 'full' (robosuite's own) or 'fast'.
    """

    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    action_size: int = 7
    fidelity: str = 'full'


class Policy(Protocol):
    """What drives the robot; never trained or touched by the diagnosis."""

    needs: PolicyNeeds
    digest: str  # SHA-256 of its weights or code, hex

    def reset(self, instruction: str) -> None:
        """Forget the last rollout and take the instruction."""
        ...

    def act(self, observation: Observation) -> np.ndarray:
        """Return the next action, (action_size,), components in [-1, 1]."""
        ...
