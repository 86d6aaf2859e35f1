# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Policies that are Python: a function of the user's own that makes them."""

import importlib
import importlib.util
import os
from pathlib import Path
import sys
from types import ModuleType
from typing import Any

import numpy as np
from robomd_ros.errors import UserError
from robomd_ros.policies.files import check_file, describe, sha256
from robomd_ros.policies.protocol import PolicyNeeds
from robomd_ros.worlds.protocol import Observation


class FactoryPolicy:
    """What the user's factory made; its actions are clipped to [-1, 1]."""

    def __init__(self, made: Any, digest: str) -> None:
        self.needs: PolicyNeeds = made.needs
        self.digest = digest
        self._made = made

    def reset(self, instruction: str) -> None:
        """Forget the last rollout and take the instruction."""
        self._made.reset(instruction)

    def act(self, observation: Observation) -> np.ndarray:
        """Return the next action, (action_size,), components in [-1, 1]."""
        return np.clip(np.asarray(self._made.act(observation), dtype=np.float64), -1, 1)


def load_factory(rest: str, task: str) -> FactoryPolicy:
    """
    Import MODULE, a dotted name or the path of a .py file, and call its FACTORY(task).

    rest: MODULE:FACTORY. Raises UserError if it cannot be imported, has no such factory or that
    does not make a policy.
    """
    name, _, factory_name = rest.rpartition(':')
    if not name or not factory_name.isidentifier():
        raise UserError(f'python:{rest} names no factory; '
                        'write python:MODULE:FACTORY, for example python:my_policy.py:make.')
    module = _from_file(name) if name.endswith('.py') else _from_name(name)
    assert module.__file__
    factory = getattr(module, factory_name, None)
    where = f'python:{rest}'
    if not callable(factory):
        raise UserError(f'{where}: {module.__file__} defines no function {factory_name}; '
                        'define one that takes the name of the task and returns the policy.')
    try:
        made = factory(task)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{where}: {factory_name}({task!r}) failed: {describe(error)}.') from error
    _check_made(made, f'{where}: {factory_name}({task!r})')
    return FactoryPolicy(made, sha256(Path(module.__file__)))


def _from_file(name: str) -> ModuleType:
    path = Path(name).expanduser().resolve()
    check_file(path, 'a Python file')
    _search(str(path.parent))
    module_name = f'robomd_policy_{path.stem}'
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec and module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a module up by its name
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f'{path} cannot be imported: {describe(error)}.') from error
    return module


def _from_name(name: str) -> ModuleType:
    _search(os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        # A module that is missing inside the user's own is another matter.
        if isinstance(error, ModuleNotFoundError) and f'{name}.'.startswith(f'{error.name}.'):
            raise UserError(f'There is no Python module {error.name!r}; give the dotted name of '
                            'one that can be imported here or the path of a .py file.') from error
        raise UserError(f'The Python module {name!r} cannot be imported: '
                        f'{describe(error)}.') from error
    if not module.__file__:
        raise UserError(f'{name!r} is a directory without __init__.py; '
                        'name the module in it that defines the factory.')
    return module


def _search(directory: str) -> None:
    """Let modules in the directory be imported, now and later; they hide no others."""
    if directory not in sys.path:
        sys.path.append(directory)


def _check_made(made: Any, where: str) -> None:
    for method in ('reset', 'act'):
        if not callable(getattr(made, method, None)):
            raise UserError(f'{where} returned a {type(made).__name__} without the method '
                            f'{method}; a policy has needs, reset(instruction) and '
                            'act(observation).')
    needs = getattr(made, 'needs', None)
    if not isinstance(needs, PolicyNeeds):
        raise UserError(f'{where} returned a {type(made).__name__} whose needs are a '
                        f'{type(needs).__name__}; make them a robomd_ros.policies.PolicyNeeds.')
