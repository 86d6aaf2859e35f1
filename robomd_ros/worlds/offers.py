# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the scene of each task can show a policy, and what it takes from one."""

from collections.abc import Mapping
from dataclasses import dataclass

from robomd_ros.conditions.tasks import get_task
from robomd_ros.errors import UserError
from robomd_ros.worlds.pictures import FIDELITIES
from robomd_ros.worlds.protocol import PolicyNeeds

LARGEST_IMAGE = 1024  # pixels a side


@dataclass(frozen=True)
class Offer:
    """
    What one task's scene shows and takes.

    cameras: their names; each can be shown as '<camera>_image'.
    state: name of every other observation -> how many numbers it has; units in docs/policies.md.
    action_size: how many numbers an action has.
    """

    cameras: tuple[str, ...]
    state: Mapping[str, int]
    action_size: int


OFFERS = {
    'lift': Offer(
        cameras=('agentview', 'frontview', 'sideview', 'birdview', 'robot0_robotview',
                 'robot0_eye_in_hand'),
        state={
            'robot0_joint_pos': 7,
            'robot0_joint_pos_cos': 7,
            'robot0_joint_pos_sin': 7,
            'robot0_joint_vel': 7,
            'robot0_eef_pos': 3,
            'robot0_eef_quat': 4,
            'robot0_eef_quat_site': 4,
            'robot0_gripper_qpos': 2,
            'robot0_gripper_qvel': 2,
            'cube_pos': 3,
            'cube_quat': 4,
            'gripper_to_cube_pos': 3,
            'object': 10,  # the three above in this order; robosuite calls it object-state
        },
        action_size=7),
}


def check_needs(needs: PolicyNeeds, task: str, spec: str) -> None:
    """
    Raise UserError if the task cannot show what the policy needs or take what it answers.

    spec: what the sentence begins with: the policy's specification, or a file and line.
    """
    offer = OFFERS[get_task(task).name]
    if not isinstance(needs.images, Mapping) or isinstance(needs.state, str):
        raise UserError(f'{spec}: needs images as a mapping of cameras to sizes and state as a '
                        f'tuple of names, not {needs.images!r} and {needs.state!r}.')
    for camera, size in needs.images.items():
        if camera not in offer.cameras:
            raise UserError(f'{spec}: needs the camera {camera!r}, which the task {task} does not '
                            f'have; its cameras are {", ".join(offer.cameras)}.')
        if not _is_image_size(size):
            raise UserError(f'{spec}: needs pictures of {camera} of the size {size!r}, but a size '
                            'is height and width, two whole numbers of pixels from 1 to '
                            f'{LARGEST_IMAGE}.')
    for name in needs.state:
        if name not in offer.state:
            raise UserError(f'{spec}: needs the observation {name!r}, which the task {task} does '
                            f'not offer; it offers {", ".join(offer.state)}.')
    if needs.action_size != offer.action_size:
        raise UserError(f'{spec}: has actions of {needs.action_size} numbers, but the task {task} '
                        f'takes {offer.action_size}; give a policy made for this task.')
    if needs.fidelity not in FIDELITIES:
        raise UserError(f'{spec}: asks for the fidelity {needs.fidelity!r}; '
                        f'it is one of {", ".join(FIDELITIES)}.')


def _is_image_size(size: object) -> bool:
    return (isinstance(size, tuple | list) and len(size) == 2
            and all(type(side) is int and 1 <= side <= LARGEST_IMAGE for side in size))
