# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd`: everything from the command line, with or without a ROS graph."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
import json
from pathlib import Path
import shlex
import sys
import time

from robomd_ros import __version__
from robomd_ros.conditions import Catalogue, load_catalogue, NOMINAL
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.conditions.tasks import TASKS
from robomd_ros.errors import UserError
from robomd_ros.graph import ARGUMENTS, read_arguments, Value
from robomd_ros.policies.protocol import Policy
from robomd_ros.rollouts import PolicyUnusable, RunnerError

_IN_PROCESS = ('task', 'policy', 'searcher', 'rollouts', 'seed', 'out', 'catalogue', 'horizon',
               'fidelity')
_POLICY_HELP = ('builtin:NAME, visuomotor:PATH, robomimic:PATH, torchscript:PATH or '
                'python:MODULE:FACTORY (docs/policies.md)')


def main(words: list[str] | None = None) -> int:
    """
    Run the command and return its exit code.

    It is 0, 2 for what the user gave wrong, 1 for all else.
    """
    arguments = _parser().parse_args(words)
    arguments.command_line = shlex.join(['robomd', *(sys.argv[1:] if words is None else words)])
    try:
        return int(arguments.run(arguments))
    except (UserError, RunnerError) as error:
        print(f'robomd: {error}', file=sys.stderr)
        return 2 if isinstance(error, UserError | PolicyUnusable) else 1
    except KeyboardInterrupt:
        print('\nrobomd: stopped; what was measured is kept, and the same command goes on from '
              'here.', file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='robomd',
        description='Find out under which changes of the scene a robot policy fails.')
    parser.add_argument('--version', action='version', version=f'robomd {__version__}')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str,
                of: 'argparse._SubParsersAction[argparse.ArgumentParser]' = commands,
                ) -> argparse.ArgumentParser:
        made = of.add_parser(name, help=summary, description=f'{summary[0].upper()}{summary[1:]}.',
                             epilog=f'Example: {example}')
        made.set_defaults(run=run)
        return made

    diagnose = command(
        'diagnose', _diagnose, 'diagnose a policy in this process, without a ROS graph',
        'robomd diagnose --task lift --policy builtin:lift --searcher ppo --rollouts 500 --seed 0 '
        '--out runs/lift')
    _add_graph_arguments(diagnose, _IN_PROCESS)
    up = command(
        'up', _up,
        'start the whole ROS graph and have it diagnose a policy, as the launch file does',
        'robomd up --task lift --policy builtin:lift --executors 2 --out runs/lift')
    _add_graph_arguments(up, tuple(argument.name for argument in ARGUMENTS))
    report = command(
        'report', _report, 'write DIR/report.html and print the failure map of a diagnosis',
        'robomd report runs/lift')
    report.add_argument('dir', type=Path, metavar='DIR', help='the folder of the diagnosis')

    policy = commands.add_parser('policy', help='train and evaluate policies').add_subparsers(
        required=True, metavar='COMMAND')
    train = command(
        'train', _train, 'train a visuomotor policy on demonstrations of a scripted expert',
        'robomd policy train --task lift --out my_lift.safetensors', of=policy)
    _add_task(train)
    train.add_argument(
        '--out', type=Path, default=Path('policy.safetensors'),
        help='the weights, .safetensors; a .json goes beside (default: %(default)s)')
    train.add_argument(
        '--seed', type=int, default=0, help='of data and training (default: %(default)s)')
    train.add_argument(
        '--trials', type=int, default=200,
        help='rollouts to evaluate it with (default: %(default)s)')
    evaluate = command(
        'evaluate', _evaluate, "measure a policy's success rate under a condition",
        'robomd policy evaluate --policy builtin:lift --condition red_table --trials 100',
        of=policy)
    _add_task(evaluate)
    evaluate.add_argument(
        '--policy', default='builtin:lift', help=f'{_POLICY_HELP} (default: %(default)s)')
    evaluate.add_argument(
        '--condition', nargs='*', default=[], metavar='NAME',
        help='perturbations of the catalogue, in force together; none is the nominal scene')
    evaluate.add_argument(
        '--catalogue', default='',
        help="the perturbations, a YAML file; the task's own if not given")
    evaluate.add_argument(
        '--trials', type=int, default=100, help='how many rollouts (default: %(default)s)')
    evaluate.add_argument(
        '--seed', type=int, default=0, help='of the initial states (default: %(default)s)')
    evaluate.add_argument(
        '--horizon', type=int, default=0,
        help="control steps a rollout gets; 0 for the task's own")
    evaluate.add_argument(
        '--fidelity', default='', choices=['', 'full', 'fast'],
        help='what the pictures keep; what the policy was trained on if not given')
    evaluate.add_argument('--out', type=Path, help='also write the result there, as JSON')
    return parser


def _add_graph_arguments(parser: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    for argument in ARGUMENTS:
        if argument.name in names:
            default = f' (default: {argument.default})' if argument.default != '' else ''
            parser.add_argument(f'--{argument.name}', metavar=argument.name.upper(),
                                help=f'{argument.description}{default}'.replace('%', '%%'))
    parser.set_defaults(graph_arguments=names)


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--task', default='lift', help=f'{", ".join(sorted(TASKS))} (default: %(default)s)')


def _given(arguments: argparse.Namespace) -> dict[str, object]:
    values = ((name, getattr(arguments, name)) for name in arguments.graph_arguments)
    return {name: value for name, value in values if value is not None}


def _catalogue(task: Value, path: Value) -> Catalogue:
    return load_catalogue(str(path) or default_catalogue(str(task)))


def _up(arguments: argparse.Namespace) -> int:
    from robomd_ros.up import run
    return run(_given(arguments))


def _diagnose(arguments: argparse.Namespace) -> int:
    values = read_arguments(_given(arguments))
    from robomd_ros.diagnosis.run import check_settings, diagnose, Progress, Settings
    from robomd_ros.policies import load_policy
    from robomd_ros.rollouts import LocalRunner, versions
    from robomd_ros.worlds.mujoco_world import MujocoWorld
    from tqdm import tqdm

    catalogue = _catalogue(values['task'], values['catalogue'])
    settings = Settings(
        task=str(values['task']), policy=str(values['policy']), catalogue=catalogue.path,
        searcher=str(values['searcher']), rollouts=int(values['rollouts']),
        seed=int(values['seed']), out=Path(str(values['out'])))
    check_settings(settings)
    _one_thread()
    policy = load_policy(settings.policy, settings.task)
    world = MujocoWorld(settings.task, policy.needs, str(values['fidelity']) or None,
                        int(values['horizon']) or None)
    bar: tqdm | None = None

    def show(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=progress.asked, initial=progress.done, desc='Rollouts',
                       unit='rollout')
        bar.n = progress.done
        bar.set_postfix(failures=progress.failures, invalid=progress.invalid)

    try:
        diagnose(settings, catalogue, LocalRunner(world, policy), world.info, policy.digest,
                 versions(), arguments.command_line, show, lambda: False)
    finally:
        if bar is not None:
            bar.close()
        world.close()
    if bar is None:
        print(f'All {settings.rollouts} rollouts are there already; '
              'ask for more, or name another --out to begin anew.')
    return _finish(settings.out)


def _finish(out: Path) -> int:
    from robomd_ros.reports import conclude
    print(conclude(out))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    return _finish(arguments.dir)


def _train(arguments: argparse.Namespace) -> int:
    from robomd_ros.policies.training import Recipe, train
    from robomd_ros.rollouts import versions

    if arguments.out.suffix != '.safetensors':
        raise UserError(f'--out must end in .safetensors, and {arguments.out} does not.')
    _check_trials(arguments)
    _one_thread()
    began = time.monotonic()
    policy, about = train(arguments.task, Recipe(), arguments.seed)
    about |= {'command': arguments.command_line, 'versions': versions()}
    _write_policy(policy.save, arguments.out, about)
    measured = _measure(f'visuomotor policy {arguments.out}', policy, arguments, ())
    _write_policy(policy.save, arguments.out, about | {'evaluation': measured})
    print(f'{arguments.out} is made, in {(time.monotonic() - began) / 60:.1f} minutes; '
          f'diagnose it: robomd diagnose --task {arguments.task} '
          f'--policy visuomotor:{arguments.out}')
    return 0


def _write_policy(save: Callable[[Path, dict[str, object]], None], path: Path,
                  about: dict[str, object]) -> None:
    try:
        save(path, about)
    except OSError as error:
        raise UserError(
            f'{path} cannot be written ({error.strerror}); name another --out.') from error


def _evaluate(arguments: argparse.Namespace) -> int:
    from robomd_ros.policies import load_policy

    _check_trials(arguments)
    catalogue = _catalogue(arguments.task, arguments.catalogue)
    catalogue.condition(arguments.condition)
    _one_thread()
    policy = load_policy(arguments.policy, arguments.task)
    measured = _measure(arguments.policy, policy, arguments, arguments.condition, catalogue)
    if arguments.out:
        from robomd_ros.rollouts import versions
        measured |= {'command': arguments.command_line, 'versions': versions()}
        arguments.out.write_text(json.dumps(measured, indent=2) + '\n')
    return 0


def _check_trials(arguments: argparse.Namespace) -> None:
    for name, low in (('trials', 1), ('seed', 0)):
        if getattr(arguments, name) < low:
            raise UserError(f'--{name} must be at least {low}, not {getattr(arguments, name)}.')


def _measure(name: str, policy: Policy, arguments: argparse.Namespace, condition: Sequence[str],
             catalogue: Catalogue | None = None) -> dict[str, object]:
    """Run the policy under the condition, print and return its success rate with its interval."""
    from robomd_ros.diagnosis.statistics import wilson
    from robomd_ros.rollouts import LocalRunner, RolloutRequest
    from robomd_ros.worlds.mujoco_world import MujocoWorld
    from tqdm import tqdm

    wanted = catalogue.condition(condition) if catalogue else NOMINAL
    world = MujocoWorld(arguments.task, policy.needs, getattr(arguments, 'fidelity', '') or None,
                        getattr(arguments, 'horizon', 0) or None)
    requests = [RolloutRequest(str(trial), wanted, arguments.seed, trial)
                for trial in range(arguments.trials)]
    results = []
    with tqdm(LocalRunner(world, policy).run(requests), desc=f'evaluating, {wanted.label}',
              total=len(requests), unit='rollout') as bar:
        for result in bar:
            results.append(result)
            bar.set_postfix(success=sum(r.outcome.verdict == 'success' for r in results))
    world.close()
    valid = [result for result in results if result.outcome.verdict != 'invalid']
    successes = sum(result.outcome.verdict == 'success' for result in valid)
    low, high = wilson(successes, len(valid))
    print(f'{name}, {wanted.label}: {successes} of {len(valid)} rollouts succeeded, '
          f'{100 * successes / max(len(valid), 1):.1f}% '
          f'(95% Wilson interval {100 * low:.1f} to {100 * high:.1f}%)')
    reasons = Counter(r.outcome.reason for r in results if r.outcome.verdict == 'invalid')
    for reason, number in reasons.items():
        print(f'  {number} invalid: {reason}')
    return {
        'policy': name, 'condition': list(wanted.names), 'n': len(valid), 'successes': successes,
        'interval': [low, high], 'invalid': len(results) - len(valid), 'seed': arguments.seed,
        'horizon': world.info.horizon, 'fidelity': world.info.fidelity,
        'renderer': world.info.renderer}


def _one_thread() -> None:
    import torch
    # A picture is too little work for two, and rollouts are run side by side.
    torch.set_num_threads(1)


if __name__ == '__main__':
    raise SystemExit(main())
