# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the tests of the policies share."""

import numpy as np
import pytest
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy
from robomd_ros.worlds.offers import OFFERS


def refused(spec, *parts, task='lift'):
    """Return the one sentence that the specification is refused with."""
    with pytest.raises(UserError) as caught:
        load_policy(spec, task)
    sentence = str(caught.value)
    assert '\n' not in sentence
    assert sentence.endswith('.')
    assert '. ' not in sentence.replace(' ... ', '')
    for part in parts:
        assert part in sentence
    return sentence


def observation(seed=0, size=(84, 84)):
    rng = np.random.default_rng(seed)
    shown = {name: rng.normal(size=numbers) for name, numbers in OFFERS['lift'].state.items()}
    shown['agentview_image'] = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return shown


def rollout(policy, seed, steps=6):
    policy.reset('lift the red cube')
    return np.array([policy.act(observation(100 * seed + step)) for step in range(steps)])
