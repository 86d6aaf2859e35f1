# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Policies trained with robomimic 0.3."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
import io
import json
from pathlib import Path
import pickle
import re
from typing import Any
import warnings

import numpy as np
from robomd_ros.conditions.tasks import get_task
from robomd_ros.errors import UserError
from robomd_ros.policies.files import check_file, describe, sha256
from robomd_ros.policies.noise import Noise
from robomd_ros.policies.protocol import PolicyNeeds
from robomd_ros.worlds.offers import OFFERS
from robomd_ros.worlds.protocol import Observation
import torch

_WHAT = 'a checkpoint of robomimic 0.3'
_PARTS = ('model', 'config', 'algo_name', 'env_metadata', 'shape_metadata')
_ROBOSUITE = 1  # robomimic's EnvType.ROBOSUITE_TYPE
# Since robosuite 1.5 gripper_to_cube_pos points from the gripper to the cube; it was the reverse.
_FLIPPED_IN_1_5 = {'lift': {'object': slice(7, 10), 'gripper_to_cube_pos': slice(0, 3)}}


class RobomimicPolicy:
    """
    A robomimic algorithm and the weights of its checkpoint; runs on the CPU.

    frame_stack: how many observations, the present one last, its network is shown together.
    flipped: state observation -> the part of it whose sign has changed since the robosuite that
    the policy was trained in.
    """

    def __init__(self, rollout_policy: Any, needs: PolicyNeeds, digest: str, frame_stack: int,
                 flipped: Mapping[str, slice]) -> None:
        self.needs = needs
        self.digest = digest
        # Frames are normalised one by one, before they are stacked.
        self._stats = rollout_policy.obs_normalization_stats
        self._network = type(rollout_policy)(rollout_policy.policy)
        self._flipped = flipped
        self._frames: deque[dict[str, np.ndarray]] = deque(maxlen=frame_stack)
        self._noise = Noise()

    def reset(self, instruction: str) -> None:
        """Forget the last rollout: recurrent state, past frames and random numbers."""
        self._network.start_episode()
        self._frames.clear()
        self._noise.reset()

    def act(self, observation: Observation) -> np.ndarray:
        """Return the next action, (action_size,), components in [-1, 1]."""
        frame = self._frame(observation)
        # As robomimic's FrameStackWrapper: a rollout begins with copies of its first frame.
        self._frames.extend([frame] * (1 if self._frames else self._frames.maxlen or 1))
        if self._frames.maxlen != 1:
            frame = {name: np.stack([past[name] for past in self._frames]) for name in frame}
        with torch.inference_mode(), self._noise.drawing(observation):
            return np.clip(self._network(frame), -1, 1)

    def _frame(self, observation: Observation) -> dict[str, np.ndarray]:
        """Return the observation as robomimic's networks take it."""
        from robomimic.utils import obs_utils

        frame = {}
        for camera in self.needs.images:
            name = f'{camera}_image'
            frame[name] = obs_utils.process_obs(observation[name], obs_modality='rgb')
        for name in self.needs.state:
            frame[name] = np.array(observation[name])
            if name in self._flipped:
                frame[name][self._flipped[name]] *= -1
        return obs_utils.normalize_obs(frame, self._stats) if self._stats else frame


def load_robomimic(path: str, task: str) -> RobomimicPolicy:
    """
    Load a checkpoint as robomimic's policy_from_checkpoint does.

    The file is unpickled with weights_only, so it cannot run code. Raises UserError if robomimic
    is not installed, the file is not such a checkpoint or it was trained for something else.
    """
    file = Path(path).expanduser()
    check_file(file, _WHAT)
    file_utils = _import_file_utils()
    checkpoint = _read(file)
    try:
        _check_trained_on(checkpoint['env_metadata'], file, task)
        checkpoint['config'] = json.dumps(_settled(json.loads(checkpoint['config'])))
        with _quiet():
            rollout_policy, _ = file_utils.policy_from_checkpoint(
                device=torch.device('cpu'), ckpt_dict=checkpoint)
        config = rollout_policy.policy.global_config
        needs = _needs(checkpoint['shape_metadata'], config, file, task)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{file} cannot be loaded as {_WHAT}: {describe(error)}.') from error
    version = re.match(r'(\d+)\.(\d+)', str(checkpoint['env_metadata'].get('env_version')))
    old = version is not None and (int(version[1]), int(version[2])) < (1, 5)
    return RobomimicPolicy(rollout_policy, needs, sha256(file), config.train.frame_stack,
                           _FLIPPED_IN_1_5.get(task, {}) if old else {})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what robomimic prints and warns of to ourselves."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _import_file_utils() -> Any:
    try:
        with _quiet():
            from robomimic.utils import file_utils
    except ImportError as error:
        raise UserError(f'Policies of robomimic need robomimic ({describe(error)}); '
                        'run pip install "robomd_ros[robomimic]".') from None
    return file_utils


def _read(file: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(file, map_location='cpu', weights_only=True)
    except Exception as error:
        foreign = re.search(r'Unsupported (?:global: GLOBAL|class) (\S+)', str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise UserError(f'{file} is not {_WHAT}: it holds an object of {foreign[1]}, and '
                            'loading that would run code of its author.') from None
        raise UserError(f'{file} is not {_WHAT}, or is damaged; give one that robomimic '
                        'saved.') from None
    if not isinstance(checkpoint, dict):
        raise UserError(f'{file} is not {_WHAT}: it holds a {type(checkpoint).__name__}.')
    missing = [part for part in _PARTS if part not in checkpoint]
    if missing:
        raise UserError(f'{file} is not {_WHAT}: it has no {", ".join(missing)}.')
    return checkpoint


def _settled(config: Any) -> Any:
    """
    Return the configuration without what its author's machine had and ours need not have.

    The checkpoint's weights replace pretrained ones, which would be downloaded first. robomimic
    evaluates the names of classes as Python, so they must be names.
    """
    if isinstance(config, list):
        return [_settled(value) for value in config]
    if not isinstance(config, dict):
        return config
    settled = {key: _settled(value) for key, value in config.items()}
    if settled.get('pretrained'):
        settled['pretrained'] = False
    for key, value in settled.items():
        if key.endswith('_class') and isinstance(value, str) and not value.isidentifier():
            raise ValueError(f'its configuration names the class {value!r}')
    return settled


def _check_trained_on(env_metadata: Mapping[str, Any], file: Path, task: str) -> None:
    """Raise UserError if the checkpoint says it was trained on something else than the task."""
    wanted = get_task(task)
    settings = env_metadata.get('env_kwargs') or {}
    robots = settings.get('robots', wanted.robot)
    arm = _arm_controller(settings.get('controller_configs'))
    delta = arm.get('control_delta', arm.get('input_type', 'delta') == 'delta')
    facts = (
        ('the simulator', env_metadata.get('type', _ROBOSUITE), _ROBOSUITE),
        ('the environment', env_metadata.get('env_name'), wanted.environment),
        ('the robot', robots if isinstance(robots, str) else '+'.join(robots), wanted.robot),
        ('the controller', arm.get('type', 'OSC_POSE'), 'OSC_POSE'),
        ('relative control', delta, True),
        ('the control frequency', settings.get('control_freq', 20), 20),
    )
    for what, given, right in facts:
        if given != right:
            raise UserError(f'{file}: was trained with {what} {given!r}, but the task {task} has '
                            f'{right!r}; give a checkpoint trained for this task.')


def _arm_controller(configuration: Any) -> Mapping[str, Any]:
    """Return the arm's part of robosuite's controller configuration, empty if not given."""
    if isinstance(configuration, list) and configuration:
        configuration = configuration[0]  # one for each robot
    if not isinstance(configuration, dict):
        return {}
    if 'body_parts' not in configuration:  # before robosuite 1.5
        return configuration
    parts = configuration['body_parts']
    return parts.get('arms', parts).get('right', {})


def _needs(shape_metadata: Mapping[str, Any], config: Any, file: Path, task: str) -> PolicyNeeds:
    from robomimic.utils import obs_utils

    if config.use_goals:
        raise UserError(f'{file}: is conditioned on goals, and the task {task} gives none; '
                        'give a checkpoint trained without.')
    images = {}
    state = []
    for name, shape in shape_metadata['all_shapes'].items():
        modality = dict(obs_utils.OBS_KEYS_TO_MODALITIES).get(name)
        if modality == 'rgb':
            images[name.removesuffix('_image')] = (int(shape[1]), int(shape[2]))
        elif modality == 'low_dim':
            state.append(name)
            offered = OFFERS[task].state.get(name)
            if offered is not None and list(shape) != [offered]:
                raise UserError(f'{file}: needs {name!r} of shape {tuple(shape)}, but the task '
                                f'{task} offers {offered} numbers; '
                                'give a checkpoint trained for this task.')
        elif modality is not None:
            raise UserError(f'{file}: needs {name!r}, a {modality} observation, but only pictures '
                            'and numbers are shown; give a checkpoint trained on those.')
    return PolicyNeeds(images, tuple(state), int(shape_metadata['ac_dim']))
