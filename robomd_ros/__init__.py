# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Diagnose the failures of robot manipulation policies, with ROS 2 nodes and from Python alone."""

import os
import sys

__version__ = '0.1.0'

# A sourced workspace says where ROS 2's packages are; pip alone put them into Python's prefix.
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
