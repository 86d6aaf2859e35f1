# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd suspect`."""

import argparse
from pathlib import Path

from robomd_ros.cli.common import (
    add_catalogue,
    add_command,
    add_policy,
    add_task,
    add_world,
    check_numbers,
    check_writable,
    Commands,
    one_thread,
    read_catalogue,
)
from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis.suspicion import Suspicion
from robomd_ros.errors import UserError


def add_to(commands: 'Commands[argparse.ArgumentParser]') -> None:
    """Add the command."""
    suspect = add_command(
        commands, 'suspect', _suspect,
        "measure how far each change moves the policy's actions, without a rollout under any of "
        'them: what to look at first, and no failure rate (docs/suspicion.md)',
        'robomd suspect --task lift --policy builtin:lift --out runs/lift')
    add_task(suspect)
    add_policy(suspect)
    add_catalogue(suspect)
    add_world(suspect)
    suspect.add_argument(
        '--out', type=Path, default=Path('suspicion'),
        help='folder for suspicion.json and suspicion.png; a diagnosis of the same with the same '
             'folder takes the numbers from there (default: %(default)s)')


def _suspect(arguments: argparse.Namespace) -> int:
    from robomd_ros.diagnosis.suspicion import SUSPICION_FILE
    from robomd_ros.reports.suspicion import suspicion_png, suspicion_table
    from robomd_ros.rollouts.ledger import write_whole

    check_numbers(arguments)
    catalogue = read_catalogue(arguments.task, arguments.catalogue)
    if catalogue.task != arguments.task:
        raise UserError(f'{catalogue.path} is a catalogue of the task {catalogue.task}, '
                        f'not {arguments.task}; give one of {arguments.task}.')
    path, picture = arguments.out / SUSPICION_FILE, arguments.out / 'suspicion.png'
    check_writable(path, picture)
    one_thread()
    found = _measure(arguments, catalogue)
    title = f'{arguments.task}, policy {arguments.policy}, seed {arguments.seed}'
    write_whole(picture, suspicion_png(found, catalogue, title))
    print(f'\n{suspicion_table(found, catalogue, title)}\n\nNumbers: {path}\nFigure:  {picture}')
    return 0


def _measure(arguments: argparse.Namespace, catalogue: Catalogue) -> Suspicion:
    """Return what the folder has of the same already, or measure it."""
    from robomd_ros.diagnosis.suspicion import measure_suspicion, read_suspicion
    from robomd_ros.policies import load_policy
    from robomd_ros.rollouts import LocalRunner, versions
    from robomd_ros.worlds.mujoco_world import MujocoWorld
    from tqdm import tqdm

    policy = load_policy(arguments.policy, arguments.task)
    stopping = arguments.stopping
    stopping.gentle = True
    world = MujocoWorld(arguments.task, policy.needs, arguments.fidelity or None,
                        arguments.horizon or None)
    try:
        world.check(catalogue)
        settings = {
            'task': arguments.task, 'policy_digest': policy.digest, 'seed': arguments.seed,
            'catalogue_digest': catalogue.digest, 'model_digest': world.info.model_digest,
            'fidelity': world.info.fidelity, 'horizon': world.info.horizon}
        found = read_suspicion(arguments.out, catalogue, settings)
        if found is None:
            with tqdm(desc='Suspicion', total=len(catalogue), unit='change') as bar:
                found = measure_suspicion(
                    arguments.out, catalogue, LocalRunner(world, policy, stopping.wanted),
                    settings, versions(), arguments.command_line,
                    lambda done: bar.update(done - bar.n))
    finally:
        world.close()
    stopping.gentle = False
    return found
