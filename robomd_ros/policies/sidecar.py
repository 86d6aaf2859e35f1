# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The YAML file beside a TorchScript policy: what its network is shown and what it answers."""

from dataclasses import dataclass
from pathlib import Path
import reprlib

import numpy as np
from robomd_ros.policies.protocol import PolicyNeeds
from robomd_ros.worlds.offers import check_needs, OFFERS
from robomd_ros.worlds.pictures import FIDELITIES
from robomd_ros.yaml_file import fault, fields, mapping, place, plain, read_yaml
import yaml


@dataclass(frozen=True)
class Sidecar:
    """
    What the network is shown and what it answers; the file's format is in docs/policies.md.

    mean, std: (3,) of the red, green and blue the network's pictures are normalised by, in [0, 1].
    low, high: (action_size,) the network's answers for -1 and 1.
    """

    needs: PolicyNeeds
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray


def read_sidecar(path: Path, task: str) -> Sidecar:
    """Read the file; raise UserError, naming file and line, for any fault in it."""
    root = read_yaml(path, 'the sidecar of a TorchScript policy')
    top = fields(root, ('observations', 'action'), ('image_normalization', 'fidelity'))
    images, state = _observations(top['observations'], task)
    size, low, high = _action(top['action'], task)
    mean, std = _normalization(top.get('image_normalization'))
    needs = PolicyNeeds(images, state, size, _fidelity(top.get('fidelity')))
    return Sidecar(needs, mean, std, low, high)


def _observations(
        node: yaml.Node, task: str) -> tuple[dict[str, tuple[int, int]], tuple[str, ...]]:
    found = fields(node, (), ('images', 'state'))
    images: dict[str, tuple[int, int]] = {}
    state: list[str] = []
    action_size = OFFERS[task].action_size
    if 'images' in found:
        cameras = mapping(found['images'], "'images' must map cameras to [height, width]")
        for camera, size_node in cameras.items():
            size = plain(size_node)
            images[camera] = tuple(size) if isinstance(size, list) else size  # type: ignore
            check_needs(PolicyNeeds({camera: images[camera]}, (), action_size), task,
                        place(size_node))
    if 'state' in found:
        if not isinstance(found['state'], yaml.SequenceNode):
            raise fault(found['state'], "'state' must be a list of observations' names")
        for name_node in found['state'].value:
            name = plain(name_node)
            if not isinstance(name, str) or name in state:
                raise fault(name_node, f'{reprlib.repr(name)} must be the name of an observation, '
                                       'each at most once')
            check_needs(PolicyNeeds({}, (name,), action_size), task, place(name_node))
            state.append(name)
    if not images and not state:
        raise fault(node, 'there is nothing to show the network; '
                          "name pictures under 'images' or other observations under 'state'")
    return images, tuple(state)


def _action(node: yaml.Node, task: str) -> tuple[int, np.ndarray, np.ndarray]:
    found = fields(node, ('size',), ('low', 'high'))
    size = plain(found['size'])
    if type(size) is not int or size < 1:
        raise fault(found['size'], f"'size' must be how many numbers an action has, "
                                   f'not {reprlib.repr(size)}')
    check_needs(PolicyNeeds({}, (), size), task, place(found['size']))
    low = _numbers(found['low'], size) if 'low' in found else np.full(size, -1.0)
    high = _numbers(found['high'], size) if 'high' in found else np.full(size, 1.0)
    if not (low < high).all():
        raise fault(node, "'low' must be less than 'high' in every number of an action")
    return size, low, high


def _normalization(node: yaml.Node | None) -> tuple[np.ndarray, np.ndarray]:
    if node is None:
        return np.zeros(3), np.ones(3)
    found = fields(node, ('mean', 'std'))
    std = _numbers(found['std'], 3)
    if not (std > 0).all():
        raise fault(found['std'], "'std' must be greater than 0")
    return _numbers(found['mean'], 3), std


def _numbers(node: yaml.Node, length: int) -> np.ndarray:
    """Return that many numbers: the list in the file, or its one number that many times."""
    value = plain(node)
    values = value if isinstance(value, list) else [value] * length
    right = len(values) == length and all(type(number) in (int, float) for number in values)
    if not right or not np.isfinite(np.array(values, dtype=np.float64)).all():
        raise fault(node, f'there must be a number or a list of {length} numbers here, '
                          f'not {reprlib.repr(value)}')
    return np.array(values, dtype=np.float64)


def _fidelity(node: yaml.Node | None) -> str:
    if node is None:
        return 'full'
    fidelity = plain(node)
    if not isinstance(fidelity, str) or fidelity not in FIDELITIES:
        raise fault(node, f"'fidelity' must be {' or '.join(FIDELITIES)}, "
                          f'not {reprlib.repr(fidelity)}')
    return fidelity
