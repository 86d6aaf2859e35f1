# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a network draws at random while it acts, made a function of the rollout alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
import hashlib
import random

import numpy as np
import torch

_begun: int | None = None  # what begun_anew has them begin with


@contextmanager
def begun_anew(seed: int) -> Iterator[None]:
    """
    Let a policy that is reset inside the block draw the same numbers whatever it is shown.

    That goes for a Noise and for the process's own generators of Python, NumPy and torch, which
    are left as they were.
    """
    global _begun
    python, numbers = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    _begun = seed
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        _begun = None
        random.setstate(python)
        np.random.set_state(numbers)


class Noise:
    """
    torch's random numbers for one policy: the same rollout twice gives the same actions.

    The first observation of a rollout seeds them, so trials differ; the process's own generator
    is left as it was, so a policy neither disturbs nor is disturbed by what else draws from it.
    """

    def __init__(self) -> None:
        self._state: torch.Tensor | None = None

    def reset(self) -> None:
        """Forget the last rollout."""
        self._state = None

    @contextmanager
    def drawing(self, observation: Mapping[str, np.ndarray]) -> Iterator[None]:
        """Let torch draw this policy's numbers inside the block."""
        with torch.random.fork_rng(devices=[]):
            if self._state is None:
                torch.default_generator.manual_seed(
                    _seed(observation) if _begun is None else _begun)
            else:
                torch.set_rng_state(self._state)
            yield
            self._state = torch.get_rng_state()


def _seed(observation: Mapping[str, np.ndarray]) -> int:
    digest = hashlib.sha256()
    for name in sorted(observation):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(observation[name]).tobytes())
    return int.from_bytes(digest.digest()[:7], 'big')
