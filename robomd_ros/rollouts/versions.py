# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The versions a result depends on."""

from importlib import metadata
import platform

import robomd_ros

PACKAGES = (
    'gymnasium', 'mujoco', 'numpy', 'opencv-python', 'robomimic', 'robosuite', 'stable-baselines3',
    'torch')


def versions() -> dict[str, str]:
    """Return name -> version of this package, Python and what is installed of PACKAGES."""
    found = {'robomd_ros': robomd_ros.__version__, 'python': platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
