# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Policy: what is under test."""

from typing import Protocol

import numpy as np
from robomd_ros.worlds.protocol import Observation, PolicyNeeds

__all__ = ['Policy', 'PolicyNeeds']


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
