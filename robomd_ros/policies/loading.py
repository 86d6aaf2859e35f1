# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From what the user writes, robomimic:PATH for one, to a policy that has been tried out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from robomd_ros.conditions.tasks import get_task
from robomd_ros.errors import UserError
from robomd_ros.policies.files import describe
from robomd_ros.policies.protocol import Policy, PolicyNeeds
from robomd_ros.worlds.offers import check_needs, OFFERS
from robomd_ros.worlds.protocol import Observation


def load_policy(spec: str, task: str) -> Policy:
    """
    Return the policy that the specification names, ready for the task.

    spec: robomimic:PATH, torchscript:PATH, visuomotor:PATH, python:MODULE:FACTORY or
    builtin:NAME; see docs/policies.md. Raises UserError if it cannot be loaded, if the task cannot
    show what it needs or take what it answers, or if it fails on a blank observation.
    """
    get_task(task)
    kind, _, rest = spec.partition(':')
    if kind not in _LOADERS or not rest:
        raise UserError(f'Unknown policy {spec!r}; write builtin:NAME, visuomotor:PATH, '
                        'robomimic:PATH, torchscript:PATH or python:MODULE:FACTORY.')
    policy = _LOADERS[kind](rest, task)
    check_needs(policy.needs, task, spec)
    _try_out(policy, task, spec)
    return policy


def _robomimic(rest: str, task: str) -> Policy:
    from robomd_ros.policies.robomimic import load_robomimic
    return load_robomimic(rest, task)


def _torchscript(rest: str, task: str) -> Policy:
    from robomd_ros.policies.torchscript import load_torchscript
    return load_torchscript(rest, task)


def _python(rest: str, task: str) -> Policy:
    from robomd_ros.policies.python_factory import load_factory
    return load_factory(rest, task)


def _visuomotor(rest: str, task: str) -> Policy:
    from robomd_ros.policies.visuomotor import load_visuomotor
    return load_visuomotor(Path(rest).expanduser(), task)


def _builtin(rest: str, task: str) -> Policy:
    from robomd_ros.policies.visuomotor import load_builtin
    return load_builtin(rest, task)


# Imported when asked for: torch alone takes seconds.
_LOADERS: dict[str, Callable[[str, str], Policy]] = {
    'robomimic': _robomimic, 'torchscript': _torchscript, 'python': _python,
    'visuomotor': _visuomotor, 'builtin': _builtin}


def _try_out(policy: Policy, task: str, spec: str) -> None:
    """Raise UserError unless the policy answers a blank observation with an action."""
    size = policy.needs.action_size
    observation = _blank(policy.needs, task)
    try:
        policy.reset(get_task(task).instruction)
        action = np.asarray(policy.act(observation), dtype=np.float64)
        policy.reset(get_task(task).instruction)
    except Exception as error:
        shown = ', '.join(f'{name} {value.shape}' for name, value in observation.items())
        raise UserError(f'{spec}: fails on a blank observation of {shown or "nothing"}: '
                        f'{describe(error)}.') from error
    if action.shape != (size,):
        raise UserError(f'{spec}: answers an array of shape {action.shape}, not ({size},), '
                        f'the {size} numbers of an action; give a policy made for this task.')
    if not np.isfinite(action).all():
        raise UserError(f'{spec}: answers {action.tolist()} to a blank observation; '
                        'check its weights for numbers that are not finite.')


def _blank(needs: PolicyNeeds, task: str) -> Observation:
    sizes = OFFERS[task].state
    pictures = {f'{camera}_image': np.zeros((*size, 3), np.uint8)
                for camera, size in needs.images.items()}
    return pictures | {name: np.zeros(sizes[name]) for name in needs.state}
