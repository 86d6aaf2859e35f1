# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from robomd_ros.conditions import Catalogue, load_catalogue
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.conditions.tasks import TASKS
from robomd_ros.errors import UserError
from robomd_ros.graph import Value

Commands = argparse._SubParsersAction  # what add_subparsers returns, of ArgumentParser
POLICY_HELP = ('builtin:NAME, visuomotor:PATH, robomimic:PATH, torchscript:PATH or '
               'python:MODULE:FACTORY (docs/policies.md)')


def add_command(commands: 'Commands[argparse.ArgumentParser]', name: str,
                run: Callable[[argparse.Namespace], int], summary: str, example: str,
                keeps: bool = False) -> argparse.ArgumentParser:
    """
    Add a command; return its parser, for its arguments.

    run: gets the arguments, with command_line and stop among them, and returns the exit code.
    keeps: what was measured is kept when it is stopped, so that the same command goes on.
    """
    made = commands.add_parser(name, help=summary, epilog=f'Example: {example}',
                               description=f'{summary[0].upper()}{summary[1:]}.')
    made.set_defaults(run=run, keeps=keeps)
    return made


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add --policy."""
    parser.add_argument(
        '--policy', default='builtin:lift', help=f'{POLICY_HELP} (default: %(default)s)')


def add_catalogue(parser: argparse.ArgumentParser) -> None:
    """Add --catalogue."""
    parser.add_argument(
        '--catalogue', default='',
        help="the perturbations, a YAML file; the task's own if not given")


def add_world(parser: argparse.ArgumentParser) -> None:
    """Add --seed, --horizon and --fidelity."""
    parser.add_argument(
        '--seed', type=int, default=0, help='of the initial states (default: %(default)s)')
    parser.add_argument(
        '--horizon', type=int, default=0,
        help="control steps a rollout gets; 0 for the task's own")
    parser.add_argument(
        '--fidelity', default='', choices=['', 'full', 'fast'],
        help='what the pictures keep; what the policy was trained on if not given')


def add_task(parser: argparse.ArgumentParser) -> None:
    """Add --task."""
    parser.add_argument(
        '--task', default='lift', help=f'{", ".join(sorted(TASKS))} (default: %(default)s)')


def read_catalogue(task: Value, path: Value) -> Catalogue:
    """Return the catalogue of the file, or the task's own if path is empty."""
    return load_catalogue(str(path) or default_catalogue(str(task)))


def check_writable(*files: Path) -> None:
    """Raise UserError unless the files can be written; make their folders."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            new = not file.exists()
            file.open('ab').close()
            if new:
                file.unlink()
        except OSError as error:
            raise UserError(
                f'{file} cannot be written ({error.strerror}); name another --out.') from None


def check_numbers(arguments: argparse.Namespace) -> None:
    """Raise UserError if trials, seed or horizon, where there are, are out of range."""
    for name, low in (('trials', 1), ('seed', 0), ('horizon', 0)):
        number = getattr(arguments, name, low)
        if not low <= number < 2**31:
            raise UserError(f'--{name} must be from {low} to {2**31 - 1}, not {number}.')


def one_thread() -> None:
    """Have torch keep to one core."""
    import torch
    # A picture is too little work for two, and rollouts are run side by side.
    torch.set_num_threads(1)
