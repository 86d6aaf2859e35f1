# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd policy train` and `evaluate`."""

import argparse
from collections import Counter
from collections.abc import Sequence
import json
from pathlib import Path
import time

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
from robomd_ros.conditions import Catalogue, NOMINAL
from robomd_ros.errors import UserError
from robomd_ros.policies.protocol import Policy
from robomd_ros.rollouts import RunnerError


def add_to(commands: 'Commands[argparse.ArgumentParser]') -> None:
    """Add the commands."""
    group = commands.add_parser('policy', help='train and evaluate policies').add_subparsers(
        required=True, metavar='COMMAND')
    train = add_command(
        group, 'train', _train, 'train a visuomotor policy on demonstrations of a scripted expert',
        'robomd policy train --task lift --out my_lift.safetensors')
    add_task(train)
    train.add_argument(
        '--out', type=Path, default=Path('policy.safetensors'),
        help='the weights, .safetensors; a .json goes beside (default: %(default)s)')
    train.add_argument(
        '--seed', type=int, default=0, help='of data and training (default: %(default)s)')
    train.add_argument(
        '--trials', type=int, default=200,
        help='rollouts to evaluate it with (default: %(default)s)')
    evaluate = add_command(
        group, 'evaluate', _evaluate, "measure a policy's success rate under a condition",
        'robomd policy evaluate --policy builtin:lift --condition red_table --trials 100')
    add_task(evaluate)
    add_policy(evaluate)
    evaluate.add_argument(
        '--condition', nargs='*', default=[], metavar='NAME',
        help='perturbations of the catalogue, in force together; none is the nominal scene')
    add_catalogue(evaluate)
    evaluate.add_argument(
        '--trials', type=int, default=100, help='how many rollouts (default: %(default)s)')
    add_world(evaluate)
    evaluate.add_argument('--out', type=Path, help='also write the result there, as JSON')


def _train(arguments: argparse.Namespace) -> int:
    from robomd_ros.policies.training import Recipe, train
    from robomd_ros.rollouts import versions

    if arguments.out.suffix != '.safetensors':
        raise UserError(f'--out must end in .safetensors, and {arguments.out} does not.')
    check_numbers(arguments)
    check_writable(arguments.out, arguments.out.with_suffix('.json'))
    one_thread()
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


def _evaluate(arguments: argparse.Namespace) -> int:
    from robomd_ros.policies import load_policy

    check_numbers(arguments)
    if arguments.out:
        check_writable(arguments.out)
    catalogue = read_catalogue(arguments.task, arguments.catalogue)
    catalogue.condition(arguments.condition)
    one_thread()
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


def _measure(name: str, policy: Policy, arguments: argparse.Namespace, condition: Sequence[str],
             catalogue: Catalogue | None = None) -> dict[str, object]:
    """Run the policy under the condition, print and return its success rate with its interval."""
    from robomd_ros.diagnosis.statistics import wilson
    from robomd_ros.rollouts import LocalRunner, RolloutCanceled, RolloutRequest
    from robomd_ros.worlds.mujoco_world import MujocoWorld
    from tqdm import tqdm

    wanted = catalogue.condition(condition) if catalogue else NOMINAL
    arguments.stopping.gentle = True
    world = MujocoWorld(arguments.task, policy.needs, getattr(arguments, 'fidelity', '') or None,
                        getattr(arguments, 'horizon', 0) or None)
    requests = [RolloutRequest(str(trial), wanted, arguments.seed, trial)
                for trial in range(arguments.trials)]
    results = []
    running = LocalRunner(world, policy, arguments.stopping.wanted).run(requests)
    try:
        with tqdm(running, desc=f'evaluating, {wanted.label}', total=len(requests),
                  unit='rollout') as bar:
            for result in bar:
                results.append(result)
                bar.set_postfix(success=sum(r.outcome.verdict == 'success' for r in results))
    finally:
        world.close()
    arguments.stopping.gentle = False
    if arguments.stopping.wanted():
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
