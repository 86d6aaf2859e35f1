# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd`: everything from the command line, with or without a ROS graph."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
import json
from pathlib import Path
import shlex
import signal
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

_IN_PROCESS = ('task', 'policy', 'searcher', 'rollouts', 'seed', 'reward', 'max_perturbations',
               'out', 'catalogue', 'horizon', 'fidelity')
_POLICY_HELP = ('builtin:NAME, visuomotor:PATH, robomimic:PATH, torchscript:PATH or '
                'python:MODULE:FACTORY (docs/policies.md)')


def main(words: list[str] | None = None) -> int:
    """
    Run the command and return its exit code.

    It is 0, 2 for what the user gave wrong, 128 + n after signal n, 1 for all else.
    """
    arguments = _parser().parse_args(words)
    arguments.command_line = shlex.join(['robomd', *(sys.argv[1:] if words is None else words)])
    with _Stop() as stop:
        arguments.stop = stop
        try:
            code = int(arguments.run(arguments))
        except (UserError, RunnerError) as error:
            code = 2 if isinstance(error, UserError | PolicyUnusable) else 1
            if not stop.wanted():
                print(f'robomd: {error}', file=sys.stderr)
        except BaseException:  # a KeyboardInterrupt, or what other packages make of it
            if not stop.wanted():
                raise
    if not stop.wanted():
        return code
    kept = arguments.run in (_diagnose, _up)
    print('\nrobomd: stopped' + kept * '; what was measured is kept, and the same command goes on '
          'from here' + '.', file=sys.stderr)
    return 128 + stop.signal


class _Stop:
    """
    Takes SIGINT and SIGTERM as a wish to stop, until its context is left.

    Both raise KeyboardInterrupt, but not once gentle is set, which is for what asks wanted itself:
    an exception that comes anywhere, even within compiled code, would look like the policy's or
    the world's own. A second signal then kills, for a policy that does not return; the ledger
    stands that.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.gentle = False

    def wanted(self) -> bool:
        """Return whether a signal has come."""
        return self.signal != 0

    def __enter__(self) -> '_Stop':
        """Take the signals."""
        self._before = {number: signal.signal(number, self._take)
                        for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave them to whom they were left before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        self.signal = number
        if not self.gentle:
            raise KeyboardInterrupt
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)


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
        seed=int(values['seed']), out=Path(str(values['out'])), reward=str(values['reward']),
        max_perturbations=int(values['max_perturbations']))
    check_settings(settings)
    _one_thread()
    policy = load_policy(settings.policy, settings.task)
    arguments.stop.gentle = True
    world = MujocoWorld(settings.task, policy.needs, str(values['fidelity']) or None,
                        int(values['horizon']) or None)
    world.check(catalogue)
    bar: tqdm | None = None
    wanted = arguments.stop.wanted

    def show(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=progress.asked, initial=progress.done, desc='Rollouts',
                       unit='rollout')
        bar.n = progress.done
        bar.set_postfix(failures=progress.failures, invalid=progress.invalid)

    try:
        diagnose(settings, catalogue, LocalRunner(world, policy, wanted), world.info,
                 policy.digest, versions(), arguments.command_line, show, wanted)
    finally:
        if bar is not None:
            bar.close()
        world.close()
    arguments.stop.gentle = False
    if wanted():
        return 1
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
    _check_numbers(arguments)
    _check_writable(arguments.out, arguments.out.with_suffix('.json'))
    _one_thread()
    began = time.monotonic()
    policy, about = train(arguments.task, Recipe(), arguments.seed)
    about |= {'command': arguments.command_line, 'versions': versions()}
    policy.save(arguments.out, about)
    measured = _measure(f'visuomotor policy {arguments.out}', policy, arguments, ())
    policy.save(arguments.out, about | {'evaluation': measured})
    print(f'{arguments.out} is made, in {(time.monotonic() - began) / 60:.1f} minutes; '
          f'diagnose it: robomd diagnose --task {arguments.task} '
          f'--policy visuomotor:{arguments.out}')
    return 0


def _check_writable(*files: Path) -> None:
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


def _evaluate(arguments: argparse.Namespace) -> int:
    from robomd_ros.policies import load_policy

    _check_numbers(arguments)
    if arguments.out:
        _check_writable(arguments.out)
    catalogue = _catalogue(arguments.task, arguments.catalogue)
    catalogue.condition(arguments.condition)
    _one_thread()
    policy = load_policy(arguments.policy, arguments.task)
    measured = _measure(arguments.policy, policy, arguments, arguments.condition, catalogue)
    if arguments.out:
        from robomd_ros.rollouts import versions
        measured |= {'command': arguments.command_line, 'versions': versions()}
        text = json.dumps(measured, indent=2) + '\n'
        try:
            arguments.out.write_text(text)
        except OSError as error:
            raise UserError(f'{arguments.out} cannot be written ({error.strerror}); name another '
                            '--out.') from None
    return 0


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, low in (('trials', 1), ('seed', 0), ('horizon', 0)):
        number = getattr(arguments, name, low)
        if not low <= number < 2**31:
            raise UserError(f'--{name} must be from {low} to {2**31 - 1}, not {number}.')


def _measure(name: str, policy: Policy, arguments: argparse.Namespace, condition: Sequence[str],
             catalogue: Catalogue | None = None) -> dict[str, object]:
    """Run the policy under the condition, print and return its success rate with its interval."""
    from robomd_ros.diagnosis.statistics import wilson
    from robomd_ros.rollouts import LocalRunner, RolloutCanceled, RolloutRequest
    from robomd_ros.worlds.mujoco_world import MujocoWorld
    from tqdm import tqdm

    wanted = catalogue.condition(condition) if catalogue else NOMINAL
    arguments.stop.gentle = True
    world = MujocoWorld(arguments.task, policy.needs, getattr(arguments, 'fidelity', '') or None,
                        getattr(arguments, 'horizon', 0) or None)
    requests = [RolloutRequest(str(trial), wanted, arguments.seed, trial)
                for trial in range(arguments.trials)]
    results = []
    running = LocalRunner(world, policy, arguments.stop.wanted).run(requests)
    try:
        with tqdm(running, desc=f'evaluating, {wanted.label}', total=len(requests),
                  unit='rollout') as bar:
            for result in bar:
                results.append(result)
                bar.set_postfix(success=sum(r.outcome.verdict == 'success' for r in results))
    finally:
        world.close()
    arguments.stop.gentle = False
    if arguments.stop.wanted():
        raise RolloutCanceled('The last rollout had just ended.')
    valid = [result for result in results if result.outcome.verdict != 'invalid']
    reasons = Counter(r.outcome.reason for r in results if r.outcome.verdict == 'invalid')
    if not valid:
        told = ', '.join(f'{number} for {reason}' for reason, number in reasons.items())
        raise RunnerError(f'{name}, {wanted.label}: no rollout was valid ({told}), so there is no '
                          'success rate.')
    successes = sum(result.outcome.verdict == 'success' for result in valid)
    low, high = wilson(successes, len(valid))
    print(f'{name}, {wanted.label}: {successes} of {len(valid)} rollouts succeeded, '
          f'{100 * successes / len(valid):.1f}% '
          f'(95% Wilson interval {100 * low:.1f} to {100 * high:.1f}%)')
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
