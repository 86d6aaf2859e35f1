# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd diagnose`, `up` and `report`."""

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TYPE_CHECKING

from robomd_ros.cli.common import add_command, Commands, one_thread, read_catalogue
from robomd_ros.conditions.tasks import TASKS
from robomd_ros.errors import UserError
from robomd_ros.graph import ARGUMENTS, read_arguments, Value

if TYPE_CHECKING:
    from robomd_ros.diagnosis.reading import Diagnosed
    from robomd_ros.diagnosis.run import Settings

_GRAPH_ONLY = ('executors', 'rviz', 'rqt')  # arguments without a meaning in one process


def add_to(commands: 'Commands[argparse.ArgumentParser]') -> None:
    """Add the commands."""
    diagnose = add_command(
        commands, 'diagnose', _diagnose,
        'diagnose a policy in this process, without a ROS graph',
        'robomd diagnose --task lift --policy builtin:lift --searcher ppo --rollouts 500 --seed 0 '
        '--out runs/lift', keeps=True)
    everything = tuple(argument.name for argument in ARGUMENTS)
    _add_graph_arguments(diagnose, tuple(
        name for name in everything if name not in _GRAPH_ONLY))
    up = add_command(
        commands, 'up', _up,
        'start the whole ROS graph and have it diagnose a policy, as the launch file does',
        'robomd up --task lift --policy builtin:lift --executors 2 --out runs/lift', keeps=True)
    _add_graph_arguments(up, everything)
    for parser in (diagnose, up):
        parser.add_argument(
            '--fail-on-new-modes', type=Path, metavar='BASELINE_DIR',
            help='compare with the diagnosis in this folder: exit with 1 if there is a failure '
            'mode that it has not, or the nominal scene got worse, and write junit.xml to OUT')
    report = add_command(
        commands, 'report', _report,
        'write DIR/report.html and print the failure map of a diagnosis',
        'robomd report runs/lift')
    report.add_argument('dir', type=Path, metavar='DIR', help='the folder of the diagnosis')


def _add_graph_arguments(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    for argument in ARGUMENTS:
        if argument.name in names:
            default = f' (default: {argument.default})' if argument.default != '' else ''
            parser.add_argument(f'--{argument.name}', metavar=argument.name.upper(),
                                help=f'{argument.description}{default}'.replace('%', '%%'))
    parser.set_defaults(graph_arguments=names)


def _given(arguments: argparse.Namespace) -> dict[str, object]:
    values = ((name, getattr(arguments, name)) for name in arguments.graph_arguments)
    return {name: value for name, value in values if value is not None}


def _up(arguments: argparse.Namespace) -> int:
    from robomd_ros.up import run

    given = _given(arguments)
    values = read_arguments(given)
    baseline = _read_baseline(arguments, values)
    code = run(given)
    return code or _gate(arguments, Path(str(values['out'])), baseline)


def _settings(values: Mapping[str, Value]) -> 'Settings':
    """Return what the values ask of a diagnosis."""
    from robomd_ros.diagnosis.run import Settings

    names = {field.name for field in fields(Settings)}
    asked: dict[str, Any] = {name: value for name, value in values.items() if name in names}
    catalogue = read_catalogue(values['task'], values['catalogue'])
    return Settings(**asked | {'catalogue': catalogue.path, 'out': Path(str(values['out']))})


def _read_baseline(arguments: argparse.Namespace, values: Mapping[str, Value],
                   ) -> 'Diagnosed | None':
    """Return what --fail-on-new-modes names; raise UserError if that cannot be used."""
    if arguments.fail_on_new_modes is None:
        return None
    from robomd_ros.diagnosis.regression import read_baseline

    settings = _settings(values)
    if not (settings.fixed or settings.confirm):
        raise UserError('--fail-on-new-modes needs rollouts that were planned without looking at '
                        'outcomes; give a larger confirm_share, or the searcher sweep.')
    horizon = int(values['horizon']) or TASKS[settings.task].horizon
    return read_baseline(arguments.fail_on_new_modes, settings.out, settings.task, horizon)


def _gate(arguments: argparse.Namespace, out: Path, baseline: 'Diagnosed | None') -> int:
    """Judge the diagnosis in out by the baseline, if there is one; return the exit code."""
    if baseline is None:
        return 0
    from robomd_ros.diagnosis.reading import read_diagnosis
    from robomd_ros.diagnosis.regression import verdicts
    from robomd_ros.reports.junit import write_junit

    found = read_diagnosis(out)
    judged = verdicts(found, baseline)
    path = write_junit(out, found.map, judged, arguments.fail_on_new_modes)
    failed = [each for each in judged if each.outcome == 'failed']
    skipped = sum(each.outcome == 'skipped' for each in judged)
    print(f'\nAgainst the baseline {arguments.fail_on_new_modes}: '
          f'{len(failed)} of {len(judged)} conditions are regressions, {skipped} had too few '
          'rollouts to tell.')
    for each in failed:
        print(f'  {each.sentence}')
    print(f'JUnit XML:   {path}')
    return 1 if failed else 0


def _diagnose(arguments: argparse.Namespace) -> int:
    values = read_arguments(_given(arguments))
    baseline = _read_baseline(arguments, values)
    from robomd_ros.diagnosis.run import check_settings, diagnose, Progress
    from robomd_ros.policies import load_policy
    from robomd_ros.rollouts import LocalRunner, versions
    from robomd_ros.worlds.mujoco_world import MujocoWorld
    from tqdm import tqdm

    catalogue = read_catalogue(values['task'], values['catalogue'])
    settings = _settings(values)
    check_settings(settings)
    one_thread()
    policy = load_policy(settings.policy, settings.task)
    arguments.stopping.gentle = True
    world = MujocoWorld(settings.task, policy.needs, str(values['fidelity']) or None,
                        int(values['horizon']) or None)
    world.check(catalogue)
    bar: tqdm | None = None
    wanted = arguments.stopping.wanted

    def show(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=progress.asked, initial=progress.done, desc='Rollouts',
                       unit='rollout')
        bar.set_description('Asking the policy' if progress.detail else 'Rollouts')
        bar.n = progress.done
        bar.set_postfix(failures=progress.failures, invalid=progress.invalid)

    try:
        found = diagnose(
            settings, catalogue, LocalRunner(world, policy, wanted), world.info, policy.digest,
            versions(), arguments.command_line, show, wanted)
    finally:
        if bar is not None:
            bar.close()
        world.close()
    arguments.stopping.gentle = False
    if wanted():
        return 1
    if bar is None:
        print(f'This diagnosis has ended before. {found.stopped} Ask for more rollouts, or name '
              'another --out to begin anew.')
    return _finish(settings.out) or _gate(arguments, settings.out, baseline)


def _finish(out: Path) -> int:
    from robomd_ros.reports import conclude
    print(conclude(out))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    return _finish(arguments.dir)
