# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The environment of every test and of the processes it starts; read before mujoco or rclpy is."""

import os

os.environ.setdefault('MUJOCO_GL', 'egl')  # no display; must be set before mujoco is imported
os.environ['OMP_NUM_THREADS'] = '1'  # the processes of a graph share two cores
# Nothing leaves the machine, and a 640x480 image fits a segment.
os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'SHM?max_msg_size=1MB&sockets_size=2MB'
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)  # 101 is the highest there is
for variable in ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'):  # would hinder discovery
    os.environ.pop(variable, None)
