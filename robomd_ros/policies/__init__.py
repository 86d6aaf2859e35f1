# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The policies under test, and how users bring their own."""

from robomd_ros.policies.loading import load_policy
from robomd_ros.policies.protocol import Policy, PolicyNeeds

__all__ = ['load_policy', 'Policy', 'PolicyNeeds']
