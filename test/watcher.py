# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A puppet that sees: how bright the picture is shows in all it does."""

from puppet import Puppet
from robomd_ros.policies import PolicyNeeds


class Watcher(Puppet):
    """Does what the file beside puppet.py says, and adds how bright the picture is."""

    needs = PolicyNeeds(images={'agentview': (84, 84)}, fidelity='fast')

    def act(self, observation):
        return super().act(observation) + observation['agentview_image'].mean() / 255


def make(task):
    return Watcher()
