# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""robosuite's environments, compiled once and stepped fast."""

import logging
from typing import Any
from xml.etree import ElementTree

import numpy as np
from robomd_ros.conditions.tasks import Task

# Visual meshes are decimated to this many faces in fast pictures: at 84x84 a face is then still
# smaller than a pixel.
FAST_FACES = 500
VISUAL_GROUP = 1


def make_environment(task: Task, fidelity: str) -> Any:
    """
    Return robosuite's environment of a task, its model compiled once.

    fidelity: 'full' draws as robosuite does; 'fast' has decimated visual meshes. The physics are
    the same.
    """
    logging.disable(logging.WARNING)  # robosuite warns of what its optional parts lack
    try:
        return _make_environment(task, fidelity)
    finally:
        logging.disable(logging.NOTSET)


def _make_environment(task: Task, fidelity: str) -> Any:
    import robosuite  # here, since MUJOCO_GL is read when it is imported

    # The seed fixes what robosuite draws once per model, such as Lift's cube
    # between 4.0 and 4.4 cm.
    environment = robosuite.make(
        task.environment, robots=task.robot, has_renderer=False,
        has_offscreen_renderer=fidelity == 'full', use_camera_obs=False, hard_reset=False,
        ignore_done=True, control_freq=20, seed=0)
    if fidelity == 'fast':
        xml = _decimated(environment.model.get_xml(), environment.sim.model._model)
        environment.reset_from_xml_string(xml)
    environment.reset()  # the first one changes how sites look; the model is nominal from here on
    return environment


def _decimated(xml: str, model: Any) -> str:
    """Return a model's XML with those meshes decimated that are only looked at."""
    import fast_simplification
    import mujoco

    root = ElementTree.fromstring(xml)
    elements = {element.get('name'): element for element in root.iter('mesh')}
    is_mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    only_seen = ((model.geom_contype == 0) & (model.geom_conaffinity == 0)
                 & (model.geom_group == VISUAL_GROUP))
    for mesh in range(model.nmesh):
        users = is_mesh & (model.geom_dataid == mesh)
        faces = model.mesh_face[model.mesh_faceadr[mesh]:][:model.mesh_facenum[mesh]]
        if len(faces) <= FAST_FACES or not only_seen[users].all():
            continue
        vertices = model.mesh_vert[model.mesh_vertadr[mesh]:][:model.mesh_vertnum[mesh]]
        # The compiler moved the vertices into the mesh's frame of inertia; the XML wants them
        # where they were.
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.mesh_quat[mesh])
        vertices = vertices @ rotation.reshape(3, 3).T + model.mesh_pos[mesh]
        vertices, faces = fast_simplification.simplify(
            vertices.astype(np.float32), faces.astype(np.int32),
            target_reduction=1 - FAST_FACES / len(faces))
        element = elements[model.mesh(mesh).name]
        element.attrib = {
            'name': model.mesh(mesh).name,
            'vertex': ' '.join(map(str, vertices.ravel().tolist())),
            'face': ' '.join(map(str, faces.ravel().tolist()))}
    return ElementTree.tostring(root, encoding='unicode')


class FastStepper:
    """
    Steps an environment as its own ``step`` does, without what a rollout does not need.

    The torques are robosuite's operational-space control (OSC_POSE) with the goals that its
    controller sets; only the Python around it is ours, so that a trajectory is the one robosuite's
    ``step`` gives for the same actions.
    """

    def __init__(self, environment: Any) -> None:
        import mujoco
        from robosuite.utils import control_utils

        self._mujoco, self._math = mujoco, control_utils
        self._environment = environment
        self._robot, = environment.robots
        self._model, self._data = environment.sim.model._model, environment.sim.data._data
        self._substeps = int(environment.control_timestep / environment.model_timestep)
        self._jacobian = np.zeros((2, 3, self._model.nv))
        self._mass = np.zeros((self._model.nv, self._model.nv))

    def step(self, action: np.ndarray) -> None:
        """Carry out one control step; action as robosuite's ``step`` takes it."""
        model, data, mujoco = self._model, self._data, self._mujoco
        composite = self._robot.composite_controller
        arm, = self._robot.arms
        parts = self._robot._ref_actuators_indexes_dict
        controller = composite.part_controllers[arm]
        mujoco.mj_step1(model, data)
        composite.update_state()
        composite.set_goal(action)
        # The gripper's controller holds its command until the next action;
        # the arm's runs at every substep.
        for part, command in composite.run_controller(self._robot._enabled_parts).items():
            low, high = model.actuator_ctrlrange[parts[part]].T
            data.ctrl[parts[part]] = np.clip(command, low, high)
        mujoco.mj_step2(model, data)
        site = model.site(controller.ref_name).id
        goal = (controller.origin_pos + np.dot(controller.origin_ori, controller.goal_pos),
                np.dot(controller.origin_ori, controller.goal_ori))
        low, high = model.actuator_ctrlrange[parts[arm]].T
        for _ in range(self._substeps - 1):
            mujoco.mj_step1(model, data)
            data.ctrl[parts[arm]] = np.clip(self._torques(controller, site, *goal), low, high)
            mujoco.mj_step2(model, data)

    def _torques(self, controller: Any, site: int, goal_position: np.ndarray,
                 goal_rotation: np.ndarray) -> np.ndarray:
        """Return the arm's torques, N m, towards a goal pose: (3,) m and (3, 3), world frame."""
        data, joints = self._data, controller.qvel_index
        positions, rotations = self._jacobian
        self._mujoco.mj_jacSite(self._model, data, positions, rotations, site)
        self._mujoco.mj_fullM(self._model, self._mass, data.qM)
        mass = self._mass[joints, :][:, joints]
        velocity = data.qvel
        force = ((goal_position - data.site_xpos[site]) * controller.kp[:3]
                 - np.dot(positions, velocity) * controller.kd[:3])
        error = self._math.orientation_error(goal_rotation, data.site_xmat[site].reshape(3, 3))
        torque = error * controller.kp[3:6] - np.dot(rotations, velocity) * controller.kd[3:6]
        jacobian_p, jacobian_r = positions[:, joints], rotations[:, joints]
        jacobian = np.vstack([jacobian_p, jacobian_r])
        _, lambda_p, lambda_r, nullspace = self._math.opspace_matrices(
            mass, jacobian, jacobian_p, jacobian_r)
        wrench = np.concatenate([np.dot(lambda_p, force), np.dot(lambda_r, torque)])
        return np.dot(jacobian.T, wrench) + data.qfrc_bias[joints] + self._math.nullspace_torques(
            mass, nullspace, controller.initial_joint, data.qpos[controller.qpos_index],
            velocity[joints])
