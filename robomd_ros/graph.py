# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The one description of the graph; launch/diagnose.launch.py and up.py start what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import os
import re

from robomd_ros.conditions import load_catalogue
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.conditions.tasks import TASKS
from robomd_ros.errors import UserError

Value = str | int | float | bool


@dataclass(frozen=True)
class Argument:
    """
    Something the user chooses.

    default: its type is that of every value. choices: all there are, if there are few. low, high:
    the least and the greatest number.
    """

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()
    low: int = 0
    high: float = 2**31 - 1

    @property
    def default_text(self) -> str:
        """Return the default as the user would write it."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def read(self, given: object) -> Value:
        """Return the value, given as itself or as text; raise UserError if it cannot be used."""
        text = str(given)
        if isinstance(self.default, bool):
            if text.lower() in ('true', 'false'):
                return text.lower() == 'true'
            raise UserError(f'{self.name} must be true or false, not {text!r}.')
        if isinstance(self.default, int):
            if re.fullmatch(r'-?\d{1,10}', text) and self.low <= int(text) <= self.high:
                return int(text)
            raise UserError(f'{self.name} must be a whole number from {self.low} to {self.high}, '
                            f'not {text!r}.')
        if isinstance(self.default, float):
            if re.fullmatch(r'\d?\.?\d{1,9}', text) and self.low <= float(text) <= self.high:
                return float(text)
            raise UserError(f'{self.name} must be a number from {self.low} to {self.high:g}, '
                            f'such as {self.default}, not {text!r}.')
        if self.choices and text not in self.choices:
            known = ', '.join(choice or "''" for choice in self.choices)
            raise UserError(f'Unknown {self.name} {text!r}; choose one of {known}.')
        return text


ARGUMENTS = (
    Argument('task', 'lift', 'what the robot is to do', tuple(TASKS)),
    Argument('policy', 'builtin:lift', 'the policy under test: builtin:NAME, visuomotor:PATH, '
             'robomimic:PATH, torchscript:PATH or python:MODULE:FACTORY'),
    Argument('searcher', 'ppo', "who chooses the conditions: ppo is the paper's; a2c, thompson, "
             'successive_halving and gp search for failures too; sweep tries every perturbation '
             'equally often, random at random',
             ('ppo', 'a2c', 'sweep', 'random', 'thompson', 'successive_halving', 'gp')),
    Argument('rollouts', 500, 'how many rollouts to run, all told', low=1, high=1_000_000),
    Argument('seed', 0, 'of the search and of the initial states'),
    Argument('control_share', 0.1, "share of the search's rollouts that are of the nominal scene, "
             'to compare with; at least 20 are, or half of a short search', high=0.9),
    Argument('confirm_share', 0.4, 'share of all rollouts that is kept for measuring, on fresh '
             'trials, what the search suspects; 0 for none; sweep and random need none', high=0.9),
    Argument('stop', 'budget', 'when the search ends: budget, when its rollouts are spent; '
             'settled, as soon as the changes that fail most are known', ('budget', 'settled')),
    Argument('settle_top', 5, 'how many of those are to be known', low=1, high=1000),
    Argument('settle_within', 0.2, 'how much more often, as a share of 1, one that was left out '
             'may fail than one of those', high=1.0),
    Argument('reward', 'paper', 'what a success in time t, as a share of the horizon, is worth to '
             'ppo and a2c: paper, -0.5 t; flat, -0.5; eq1_direction, -0.5 / t; others ignore it',
             ('paper', 'flat', 'eq1_direction')),
    Argument('max_perturbations', 5, 'after how many perturbations on top of each other ppo and '
             'a2c return to the nominal scene; the others try them one by one', low=1, high=20),
    # A ROS domain has ports for 120 processes.
    Argument('executors', 2, 'how many policy executors run rollouts in parallel', low=1,
             high=100),
    Argument('out', 'diagnosis', 'folder for the results; the same command again goes on with '
             'what is there'),
    Argument('catalogue', '', "the perturbations, a YAML file; empty for the task's own"),
    Argument('horizon', 0, "control steps (50 ms) a rollout gets; 0 for the task's own"),
    Argument('fidelity', '', 'what the pictures keep, full or fast; empty for what the policy '
             'was trained on', ('', 'full', 'fast')),
    Argument('rviz', False, 'whether to open RViz on the camera and the failure map'),
    Argument('rqt', False, 'whether to open rqt on the camera, the failure map and diagnostics'),
)


@dataclass(frozen=True)
class Process:
    """
    One process of the graph; the whole graph ends when it does, unless it is optional.

    package, executable: as `ros2 run` takes them. name: the node's. remappings: (from, to).
    arguments: further words of its command line, '{share}' for the package's share folder.
    """

    executable: str
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    package: str = 'robomd_ros'
    optional: bool = False


CLIENT = 'diagnose'  # the process that asks for the diagnosis; its exit code is the whole graph's
# The arguments that it asks with: its parameters, and the fields of the action Diagnose.
ASKED = ('task', 'catalogue', 'searcher', 'rollouts', 'seed', 'control_share', 'confirm_share',
         'stop', 'settle_top', 'settle_within', 'reward', 'max_perturbations', 'out')


def read_arguments(given: Mapping[str, object]) -> dict[str, Value]:
    """
    Return a value for every one of ARGUMENTS; raise UserError for what cannot be used.

    What can be seen without loading the policy is looked at: names, numbers, the catalogue and
    whether out can be written. Paths are made absolute, since processes may run elsewhere.
    """
    unknown = set(given) - {argument.name for argument in ARGUMENTS}
    if unknown:
        raise UserError(f'Unknown argument {min(unknown)}; there are '
                        f'{", ".join(argument.name for argument in ARGUMENTS)}.')
    values = {a.name: a.read(given.get(a.name, a.default)) for a in ARGUMENTS}
    values['out'] = os.path.abspath(os.path.expanduser(str(values['out'])))
    if values['catalogue']:
        values['catalogue'] = os.path.abspath(os.path.expanduser(str(values['catalogue'])))
    catalogue = load_catalogue(str(values['catalogue']) or default_catalogue(str(values['task'])))
    if catalogue.task != values['task']:
        raise UserError(f'{catalogue.path} is a catalogue of the task {catalogue.task}, '
                        f'not {values["task"]}; give one of {values["task"]}.')
    _check_writable(str(values['out']))
    return values


def _check_writable(out: str) -> None:
    """Raise UserError unless the folder can be written, or made, by this process."""
    folder = out
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise UserError(f'out is to be {out}, but {folder} is a file; give another folder.')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f'out is to be {out}, but {folder} cannot be written to; '
                        'give another folder.')


def describe(values: Mapping[str, Value]) -> list[Process]:
    """Return the processes that diagnose a policy; values are those of read_arguments."""
    def chosen(*names: str) -> dict[str, Value]:
        return {name: values[name] for name in names}

    processes = [
        Process('perturbation_manager', 'perturbation_manager', chosen('task', 'catalogue')),
        Process('success_detector', 'success_detector'),
        Process('diagnoser', 'diagnoser', chosen('executors')),
    ]
    for index in range(int(values['executors'])):
        name = f'policy_executor_{index}'
        # One camera and one robot have the names that tools look for; the others have their own.
        topics = ('camera/image_raw', 'joint_states') if index else ()
        processes.append(Process(
            'policy_executor', name, chosen('task', 'policy', 'fidelity', 'horizon', 'catalogue'),
            tuple((topic, f'{name}/{topic}') for topic in topics)))
    if values['rviz']:
        processes.append(Process('rviz2', 'rviz2', package='rviz2', optional=True,
                                 arguments=('-d', '{share}/config/diagnose.rviz')))
    if values['rqt']:
        processes.append(Process('rqt', 'rqt', package='rqt_gui', optional=True, arguments=(
            '--perspective-file', '{share}/config/diagnose.perspective')))
    processes.append(Process(CLIENT, CLIENT, chosen(*ASKED)))
    return processes
