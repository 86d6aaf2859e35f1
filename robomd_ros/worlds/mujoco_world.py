# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""MujocoWorld: a task of robosuite, its scene edited in place."""

import hashlib
from typing import Any

import numpy as np
from robomd_ros.conditions import Catalogue, Condition, NOMINAL
from robomd_ros.conditions.tasks import get_task
from robomd_ros.errors import UserError
from robomd_ros.worlds.pictures import Camera, FIDELITIES, open_camera
from robomd_ros.worlds.protocol import Observation, Outcome, PolicyNeeds, WorldInfo
from robomd_ros.worlds.renderer import check_renderer, choose_renderer
from robomd_ros.worlds.scene import SceneEditor
from robomd_ros.worlds.simulation import FastStepper, make_environment

PICTURE_SIZE = 84  # pixels, as the searchers' CnnPolicy and robomimic's image policies take them


class MujocoWorld:
    """
    A task of robosuite. Belongs to the thread that made it, as its OpenGL context does.

    The initial state is a function of (seed, trial) alone; the condition moves only what it
    resizes.
    """

    def __init__(self, task: str, needs: PolicyNeeds, fidelity: str | None = None,
                 horizon: int | None = None) -> None:
        """
        Compile the task's model.

        fidelity: 'full' or 'fast' pictures; None for those the policy was trained on.
        horizon: control steps; None for the task's own.
        Raises UserError for an unknown task or fidelity, and if nothing can draw here.
        """
        self._task, self._needs = get_task(task), needs
        fidelity = fidelity or needs.fidelity
        if fidelity not in FIDELITIES:
            raise UserError(
                f'Unknown fidelity {fidelity!r}; choose one of {", ".join(FIDELITIES)}.')
        renderer = choose_renderer()
        check_renderer(renderer)
        import mujoco  # here, since MUJOCO_GL is read when it is imported

        self._mujoco = mujoco
        # They are looked at in step; by itself MuJoCo writes a file into the user's folder.
        warnings = mujoco.mjtWarning
        self._unstable = (warnings.mjWARN_BADQPOS, warnings.mjWARN_BADQVEL,
                          warnings.mjWARN_BADQACC)
        mujoco.set_mju_user_warning(lambda message: None)
        self._whole = mujoco.mjtState.mjSTATE_INTEGRATION
        self._environment = make_environment(self._task, fidelity)
        self._model = self._environment.sim.model._model
        self._data = self._environment.sim.data._data
        self._scene = SceneEditor(self._model, self._task)
        self._stepper = FastStepper(self._environment)
        self._camera: Camera | None = None
        self._condition: Condition | None = None  # the one the scene is set to, None if unknown
        self._sensors = self._wanted_sensors()
        self._steps = 0
        self.info = WorldInfo(
            world='mujoco', task=task, model_digest=self.model_digest(), fidelity=fidelity,
            renderer=renderer, horizon=horizon or self._task.horizon,
            instruction=self._task.instruction)

    def model_digest(self) -> str:
        """Return the SHA-256 of the compiled model as it is now, hex."""
        buffer = np.empty(self._mujoco.mj_sizeModel(self._model), np.uint8)
        self._mujoco.mj_saveModel(self._model, None, buffer)
        return hashlib.sha256(buffer.tobytes()).hexdigest()

    def check(self, catalogue: Catalogue) -> None:
        """Raise UserError, naming file and line, for a perturbation that cannot be set here."""
        self._condition = None
        for perturbation in catalogue:
            try:
                self._scene.apply(Condition((perturbation,)))
            except UserError as error:
                raise UserError(f'{catalogue.place(perturbation.name)}: {error}') from None
        self._scene.apply(NOMINAL)

    def reset(self, condition: Condition, seed: int, trial: int) -> Observation:
        """
        Set the scene to the condition and the initial state that (seed, trial) names.

        Raises UserError if the scene cannot be set to the condition.
        """
        environment = self._environment
        self._set_scene(condition)
        # Everything robosuite draws at a reset comes from this generator; its samplers hold the
        # object itself.
        generator = np.random.default_rng([seed, trial]).bit_generator
        environment.rng.bit_generator.state = generator.state
        environment.reset()
        self._raise_bodies(1)
        self._mujoco.mj_forward(self._model, self._data)
        self._steps = 0
        return self._observe()

    def step(self, action: np.ndarray) -> Observation:
        """
        Carry out one control step of 50 ms.

        action: (7,), OSC_POSE and gripper, components in [-1, 1].
        """
        self._stepper.step(np.asarray(action, float))
        self._steps += 1
        if any(self._data.warning[kind].number for kind in self._unstable):
            raise RuntimeError('the simulation became unstable')
        return self._observe()

    def state(self) -> np.ndarray:
        """
        Return where robot and objects are and how they move: MuJoCo's integration state, (n,).

        Resized bodies are put as high in it as they would be in their nominal size.
        """
        state = np.empty(self._mujoco.mj_stateSize(self._model, self._whole))
        positions = self._data.qpos.copy()
        self._raise_bodies(-1)
        self._mujoco.mj_getState(self._model, self._data, state, self._whole)
        self._data.qpos[:] = positions
        return state

    def restore(self, condition: Condition, state: np.ndarray) -> Observation:
        """
        Set the scene to the condition, put robot and objects back into a state, and look.

        state: what state() returned, under any condition. No physics step is taken, and what the
        controllers remember is left as it is, so only from the state just recorded can a rollout
        go on. Positions in the observation are up to date; a step leaves them one substep of 2 ms
        behind.
        Raises UserError if the scene cannot be set to the condition.
        """
        if condition != self._condition:
            self._set_scene(condition)
        self._mujoco.mj_setState(self._model, self._data, state, self._whole)
        self._raise_bodies(1)
        self._mujoco.mj_forward(self._model, self._data)
        return self._observe()

    def outcome(self) -> Outcome | None:
        """
        Return what became of the rollout, or None while it is not over.

        It is a success as soon as robosuite's own check says so, and a failure at the horizon.
        """
        if self._succeeded():
            return Outcome('success', source='simulator')
        if self._steps >= self.info.horizon:
            return Outcome('failure', source='simulator')
        return None

    def picture(self) -> np.ndarray:
        """Return what the task's camera sees now, (84, 84, 3) uint8 RGB."""
        return self.draw(PICTURE_SIZE, PICTURE_SIZE)

    def draw(self, height: int, width: int) -> np.ndarray:
        """Return what the task's camera sees now, (height, width, 3) uint8 RGB."""
        assert self._camera is not None, 'reset comes first'
        return self._camera.draw(self._task.camera, height, width)

    def joint_state(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """
        Return the names, positions and velocities of the robot's and gripper's joints.

        The units are rad and m, and these per s.
        """
        robot, = self._environment.robots
        names = [*robot.robot_joints,
                 *(name for gripper in robot.gripper.values() for name in gripper.joints)]
        joints = [self._model.joint(name) for name in names]
        return (names, np.array([self._data.qpos[joint.qposadr[0]] for joint in joints]),
                np.array([self._data.qvel[joint.dofadr[0]] for joint in joints]))

    def close(self) -> None:
        """Free what the world holds; the world cannot be used afterwards."""
        if self._camera is not None:
            self._camera.close()
        self._environment.close()

    def _set_scene(self, condition: Condition) -> None:
        self._condition = None
        if self._camera is None:
            self._camera = open_camera(self._environment, self.info.fidelity)
        self._scene.apply(condition)
        if self._scene.changed_textures:
            self._camera.upload(self._scene.changed_textures)
            self._scene.changed_textures.clear()
        self._condition = condition

    def _raise_bodies(self, times: int) -> None:
        """Move resized bodies up by so many times what their centres rest higher than nominal."""
        for body, raised in self._scene.raised.items():
            joint = self._model.body_jntadr[body]
            self._data.qpos[self._model.jnt_qposadr[joint] + 2] += times * raised

    def _succeeded(self) -> bool:
        # robosuite asks how high a body's centre is; a larger one rests higher,
        # and must be lifted as far.
        centres = self._data.xpos
        for body, raised in self._scene.raised.items():
            centres[body, 2] -= raised
        succeeded = bool(self._environment._check_success())
        for body, raised in self._scene.raised.items():
            centres[body, 2] += raised
        return succeeded

    def _wanted_sensors(self) -> list[Any]:
        """
        Return robosuite's observables for what the policy needs.

        Those that others are computed from come first.
        """
        observables = self._environment._observables
        wanted = set(self._needs.state) - {'object'}
        if wanted != set(self._needs.state) or any(
                observables[name].modality == 'object' for name in wanted):
            wanted |= {name for name, o in observables.items() if o.modality == 'object'}
            wanted |= {name for name in observables if name.endswith(('eef_pos', 'eef_quat'))}
        return [observable for name, observable in observables.items() if name in wanted]

    def _observe(self) -> Observation:
        values: dict[str, Any] = {}
        for observable in self._sensors:
            observable.update(timestep=0.0, obs_cache=values, force=True)
        observation: Observation = {
            name: np.array(values[name], float) for name in self._needs.state if name != 'object'}
        if 'object' in self._needs.state:
            observation['object'] = np.concatenate(
                [values[o.name] for o in self._sensors if o.modality == 'object'])
        for camera, (height, width) in self._needs.images.items():
            assert self._camera is not None
            observation[f'{camera}_image'] = self._camera.draw(camera, height, width)
        return observation
