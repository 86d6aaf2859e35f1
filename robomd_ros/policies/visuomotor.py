# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The visuomotor policy of `robomd policy train`: image and proprioception in, action out."""

from dataclasses import asdict, dataclass
import hashlib
import json
from pathlib import Path

import numpy as np
from robomd_ros.errors import UserError
from robomd_ros.policies.protocol import PolicyNeeds
from robomd_ros.worlds.protocol import Observation
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from torch import nn

BUILTIN = Path(__file__).parent / 'builtin'


@dataclass(frozen=True)
class VisuomotorConfig:
    """
    What a visuomotor policy takes and gives.

    task: what it was trained on. camera: whose picture it sees, size pixels square.
    state: the other observations, in this order. state_size: how many numbers these are together.
    action_size: how many it answers. fidelity: of its pictures.
    """

    task: str
    camera: str
    size: int
    state: tuple[str, ...]
    state_size: int
    action_size: int
    fidelity: str


class VisuomotorNet(nn.Module):
    """
    Four convolutions, a spatial softmax and a multi-layer perceptron.

    The spatial softmax says where each channel looks.
    """

    state_mean: torch.Tensor
    state_scale: torch.Tensor

    def __init__(self, config: VisuomotorConfig, channels: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, channels, 5, stride=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3), nn.ReLU(),
            nn.Conv2d(channels, channels, 3))
        self.head = nn.Sequential(
            nn.Linear(2 * channels + config.state_size, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, config.action_size))
        self.register_buffer('state_mean', torch.zeros(config.state_size))
        self.register_buffer('state_scale', torch.ones(config.state_size))

    def forward(self, image: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """
        Return actions, (n, action_size).

        image: (n, size, size, 3) uint8. state: (n, state_size).
        """
        features = self.convolutions(image.permute(0, 3, 1, 2).float() / 127.5 - 1.0)
        n, channels, height, width = features.shape
        attention = features.reshape(n, channels, height * width).softmax(-1)
        attention = attention.reshape(features.shape)
        rows = torch.linspace(-1, 1, height, device=features.device)
        columns = torch.linspace(-1, 1, width, device=features.device)
        points = torch.cat(
            [(attention.sum(3) * rows).sum(2), (attention.sum(2) * columns).sum(2)], 1)
        state = (state - self.state_mean) / self.state_scale
        return torch.tanh(self.head(torch.cat([points, state], 1)))


class VisuomotorPolicy:
    """A visuomotor policy with its weights; a Policy."""

    def __init__(self, net: VisuomotorNet, config: VisuomotorConfig, digest: str = '') -> None:
        self.net, self.config, self.digest = net.eval(), config, digest
        self.needs = PolicyNeeds(
            images={config.camera: (config.size, config.size)}, state=config.state,
            action_size=config.action_size, fidelity=config.fidelity)

    def reset(self, instruction: str) -> None:
        """Do nothing: the policy has no memory, and knows one task."""

    def act(self, observation: Observation) -> np.ndarray:
        """Return the next action, (action_size,), components in [-1, 1]."""
        image = torch.from_numpy(observation[f'{self.config.camera}_image'])
        state = torch.from_numpy(state_vector(observation, self.config))
        with torch.inference_mode():
            return self.net(image[None], state[None])[0].numpy()

    def save(self, path: Path, about: dict[str, object]) -> None:
        """
        Write the weights to path (.safetensors).

        The configuration and what is known of it go beside (.json).
        Raises UserError if they cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(self.net.state_dict(), path)
            path.with_suffix('.json').write_text(
                json.dumps({'config': asdict(self.config), 'about': about}, indent=2) + '\n')
        except (OSError, SafetensorError) as error:
            reason = getattr(error, 'strerror', None) or ' '.join(str(error).split())
            raise UserError(f'{path} cannot be written ({reason}); name another file.') from error


def state_vector(observation: Observation, config: VisuomotorConfig) -> np.ndarray:
    """Return the policy's proprioception, (state_size,) float32."""
    return np.concatenate([observation[name] for name in config.state]).astype(np.float32)


def load_visuomotor(path: Path, task: str) -> VisuomotorPolicy:
    """
    Return the policy saved at path (.safetensors with .json beside).

    Raises UserError if it is not one for the task.
    """
    try:
        fields = json.loads(path.with_suffix('.json').read_bytes())['config']
        config = VisuomotorConfig(**{**fields, 'state': tuple(fields['state'])})
        net = VisuomotorNet(config)
        net.load_state_dict(load_file(path))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f'{path} is not a visuomotor policy with its .json beside it '
            f'({type(error).__name__}); make one with "robomd policy train".') from error
    if config.task != task:
        raise UserError(f'{path} is a policy for the task {config.task}, not {task}.')
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode() + path.read_bytes())
    return VisuomotorPolicy(net, config, digest.hexdigest())


def load_builtin(name: str, task: str) -> VisuomotorPolicy:
    """
    Return a policy that ships with the package.

    Raises UserError naming them if there is no such one.
    """
    path = BUILTIN / f'{name}.safetensors'
    if not path.is_file():
        known = ', '.join(f'builtin:{p.stem}' for p in sorted(BUILTIN.glob('*.safetensors')))
        raise UserError(f'There is no policy builtin:{name}; there are: {known or "none"}.')
    return load_visuomotor(path, task)
