# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Policies that are TorchScript files, as torch.jit.save writes them."""

from pathlib import Path
from typing import Any
import warnings

import numpy as np
from robomd_ros.errors import UserError
from robomd_ros.policies.files import check_file, describe, sha256
from robomd_ros.policies.noise import Noise
from robomd_ros.policies.sidecar import read_sidecar, Sidecar
from robomd_ros.worlds.protocol import Observation
import torch


class TorchScriptPolicy:
    """A scripted or traced module and its sidecar; runs on the CPU."""

    def __init__(self, module: Any, sidecar: Sidecar, digest: str) -> None:
        self.needs = sidecar.needs
        self.digest = digest
        self._module = module
        self._sidecar = sidecar
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
                                 for values in (sidecar.mean, sidecar.std))
        self._noise = Noise()

    def reset(self, instruction: str) -> None:
        """Forget the last rollout; a module that exports a reset method is told to."""
        self._noise.reset()
        if hasattr(self._module, 'reset'):
            with torch.inference_mode():  # as act, whose tensors can be changed in it only
                self._module.reset()

    def act(self, observation: Observation) -> np.ndarray:
        """Return the next action, (action_size,), components in [-1, 1]."""
        inputs = {f'{camera}_image': self._picture(observation[f'{camera}_image'])
                  for camera in self.needs.images}
        for name in self.needs.state:
            inputs[name] = torch.from_numpy(observation[name].astype(np.float32))[None]
        with torch.inference_mode(), self._noise.drawing(observation):
            answer = self._module(inputs)
        action = answer.double().numpy()
        if action.ndim == 2 and len(action) == 1:
            action = action[0]
        low, high = self._sidecar.low, self._sidecar.high
        if action.shape != low.shape:
            return action  # who asked for it refuses it by its shape
        return np.clip(2 * (action - low) / (high - low) - 1, -1, 1)

    def _picture(self, image: np.ndarray) -> torch.Tensor:
        """Return (height, width, 3) uint8 as (1, 3, height, width) float32, normalised."""
        # In float32 and in this order: to the bit what torchvision's transforms give.
        channels_first = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
        picture = torch.from_numpy(channels_first).div_(255)
        return picture.sub_(self._mean).div_(self._std)[None]


def load_torchscript(path: str, task: str) -> TorchScriptPolicy:
    """
    Load the file and its sidecar, the same path with the suffix .yaml.

    Raises UserError if either is not what it should be.
    """
    file = Path(path).expanduser()
    check_file(file, 'a TorchScript file, as torch.jit.save writes')
    sidecar = read_sidecar(file.with_suffix('.yaml'), task)
    try:
        with warnings.catch_warnings():
            # New policies need not be TorchScript, but those that users have are.
            warnings.simplefilter('ignore', FutureWarning)
            module = torch.jit.load(file, map_location='cpu')
    except Exception as error:
        raise UserError(f'{file} is not a TorchScript file, as torch.jit.save writes, or is '
                        f'damaged ({describe(error)}).') from error
    schema = getattr(getattr(module, 'forward', None), 'schema', None)
    taken = [str(argument.type) for argument in schema.arguments[1:]] if schema else []
    if taken != ['Dict[str, Tensor]']:
        raise UserError(f'{file}: its forward takes ({", ".join(taken)}), '
                        'but must take one Dict[str, Tensor]; see docs/policies.md.')
    return TorchScriptPolicy(module.eval(), sidecar, sha256(file, file.with_suffix('.yaml')))
