# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
What can be changed in a scene: perturbations, conditions and catalogues.

Imports no torch, ROS or MuJoCo.
"""

from robomd_ros.conditions.catalogue import Catalogue, load_catalogue
from robomd_ros.conditions.model import Condition, NOMINAL, Perturbation

__all__ = ['Catalogue', 'Condition', 'NOMINAL', 'Perturbation', 'load_catalogue']
