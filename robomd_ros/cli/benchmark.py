# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd benchmark search` and `pool`."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from robomd_ros.cli.common import (
    add_catalogue,
    add_command,
    add_task,
    check_writable,
    Commands,
    one_thread,
    POLICY_HELP,
    read_catalogue,
)
from robomd_ros.errors import UserError

if TYPE_CHECKING:
    from robomd_ros.diagnosis.pool import Pool
    from robomd_ros.diagnosis.search_benchmark import Benchmark, Run
    from robomd_ros.rollouts.protocol import PolicyRunner
    from robomd_ros.worlds.protocol import WorldInfo

SEARCHERS = 'ppo,a2c,sweep,random,thompson,successive_halving,gp'
TRUTH_TRIALS = 100  # of every condition, to take its rate as the true one
FIGURE = 'search.png'


def add_to(commands: 'Commands[argparse.ArgumentParser]') -> None:
    """Add the commands."""
    group = commands.add_parser('benchmark', help='compare searchers').add_subparsers(
        required=True, metavar='COMMAND')
    search = add_command(
        group, 'search', _search,
        'compare what searchers have found after equally many rollouts, over several seeds; '
        'replayed from a pool of recorded rollouts it takes minutes',
        'robomd benchmark search --pool benchmarks/pools/builtin_lift.npz '
        '--searchers sweep,thompson,gp --out runs/benchmark', keeps=True)
    add_task(search)
    search.add_argument(
        '--policy', default='', help=f'{POLICY_HELP} (default: that of the pool or the truth, or '
        'builtin:TASK)')
    add_catalogue(search)
    search.add_argument(
        '--searchers', default=SEARCHERS, help='separated by commas (default: %(default)s)')
    search.add_argument(
        '--rollouts', type=int, default=420,
        help='of each run, a tenth of them of the nominal scene (default: %(default)s)')
    search.add_argument(
        '--seeds', type=int, default=10, help='runs of each searcher (default: %(default)s)')
    search.add_argument(
        '--out', type=Path, default=Path('runs/benchmark'),
        help=f'folder for results.json, {FIGURE} and runs (default: %(default)s)')
    source = search.add_mutually_exclusive_group()
    source.add_argument(
        '--pool', type=Path, metavar='FILE',
        help='replay the rollouts of this pool; if not given, rollouts are run')
    source.add_argument(
        '--truth', type=Path, metavar='DIR',
        help='where rollouts are run, the sweep whose rates are taken as the true ones; if not '
        f'given, one of {TRUTH_TRIALS} rollouts a condition is run first, into OUT/truth')
    pool = add_command(
        group, 'pool', _pool,
        'put the rollouts of a sweep, and its suspicion.json if there is one, into one small file',
        'robomd benchmark pool runs/sweep --out pool.npz')
    pool.add_argument('dir', type=Path, metavar='SWEEP_DIR',
                      help='the folder of a diagnosis with the searcher sweep')
    pool.add_argument('--out', type=Path, required=True, metavar='FILE', help='the pool, .npz')
    add_catalogue(pool)


def _pool(arguments: argparse.Namespace) -> int:
    from robomd_ros.diagnosis.pool import make_pool, read_sweep

    if arguments.out.suffix != '.npz':
        raise UserError(f'--out must end in .npz, and {arguments.out} does not.')
    task = read_sweep(arguments.dir).settings['task']
    check_writable(arguments.out)
    pool = make_pool(arguments.dir, read_catalogue(task, arguments.catalogue), arguments.out)
    told = 'with' if pool.suspicion else 'without'
    print(f'{arguments.out}: {pool.trials} rollouts of each of {len(pool.names)} conditions, '
          f'{told} suspicion, {arguments.out.stat().st_size / 1e6:.1f} MB, '
          f'digest {pool.digest[:12]}')
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from robomd_ros.diagnosis.search_summary import summarize, write_results
    from robomd_ros.reports.curves import benchmark_table, curves_png
    from robomd_ros.rollouts.ledger import write_whole

    figure = arguments.out / FIGURE
    asked, truth, runs = (_live if arguments.pool is None else _replay)(arguments)
    summary = summarize(asked, truth, runs)
    path = write_results(asked, truth, summary, arguments.command_line)
    write_whole(figure, curves_png(asked, summary))
    print(f'\n{benchmark_table(asked, summary)}\n\nResults: {path}\nCurves:  {figure}')
    return 0


def _replay(arguments: argparse.Namespace) -> 'tuple[Benchmark, Pool, list[Run]]':
    """Run the benchmark on the recorded rollouts of the pool."""
    from robomd_ros.diagnosis.pool import load_pool
    from robomd_ros.diagnosis.search_benchmark import replayed, run_benchmark
    from robomd_ros.diagnosis.search_summary import how

    truth = load_pool(arguments.pool)
    asked = _asked(arguments, truth)
    one_thread()
    print(how(asked, truth))
    with _bar('Replaying', asked) as progress:
        return asked, truth, run_benchmark(asked, truth, replayed(truth), progress)


def _live(arguments: argparse.Namespace) -> 'tuple[Benchmark, Pool, list[Run]]':
    """Run the benchmark, and where there is no truth the sweep for that, in this process."""
    from robomd_ros.diagnosis.pool import read_sweep
    from robomd_ros.diagnosis.search_benchmark import live, run_benchmark
    from robomd_ros.policies import load_policy
    from robomd_ros.rollouts import LocalRunner, versions
    from robomd_ros.worlds.mujoco_world import MujocoWorld

    truth = read_sweep(arguments.truth) if arguments.truth else None
    asked = _asked(arguments, truth)
    one_thread()
    policy = load_policy(asked.policy, asked.task)
    wanted = arguments.stopping.wanted
    arguments.stopping.gentle = True
    world = MujocoWorld(asked.task, policy.needs)
    try:
        world.check(asked.catalogue)
        runner = LocalRunner(world, policy, wanted)
        if truth is None:
            truth = _sweep(asked, runner, world.info, policy.digest, arguments)
        now = {'policy_digest': policy.digest, 'horizon': runner.horizon,
               'fidelity': world.info.fidelity, 'model_digest': world.info.model_digest}
        for name, value in now.items():
            if truth.settings[name] != value:
                raise UserError(f'The sweep of the truth has another {name} than what is to be '
                                'run; give another --truth, or none for a sweep to be run.')
        with _bar('Rollouts', asked) as progress:
            runs = run_benchmark(asked, truth, live(
                runner, asked.catalogue, world.info, policy.digest, versions(),
                arguments.command_line), progress)
    finally:
        world.close()
    arguments.stopping.gentle = False
    return asked, truth, runs


def _sweep(asked: 'Benchmark', runner: 'PolicyRunner', info: 'WorldInfo', policy_digest: str,
           arguments: argparse.Namespace) -> 'Pool':
    """Run the sweep whose rates are taken as the true ones, on initial states of its own."""
    from robomd_ros.diagnosis.pool import read_sweep
    from robomd_ros.diagnosis.run import diagnose, Progress, Settings
    from robomd_ros.diagnosis.search_benchmark import MOST_SEEDS
    from robomd_ros.rollouts import versions
    from tqdm import tqdm

    conditions = 1 + len(asked.catalogue)
    # A hair more than the share, as it is rounded down.
    settings = Settings(
        asked.task, asked.policy, asked.catalogue.path, 'sweep', TRUTH_TRIALS * conditions,
        MOST_SEEDS, asked.out / 'truth', control_share=1 / conditions + 1e-9)
    with tqdm(total=settings.rollouts, desc='True rates', unit='rollout') as bar:
        def show(progress: Progress) -> None:
            bar.update(progress.done - bar.n)

        diagnose(settings, asked.catalogue, runner, info, policy_digest, versions(),
                 arguments.command_line, show, arguments.stopping.wanted)
    return read_sweep(settings.out)


def _asked(arguments: argparse.Namespace, truth: 'Pool | None') -> 'Benchmark':
    """Return what is asked for; raise UserError if it cannot be used."""
    from robomd_ros.diagnosis.search_benchmark import Benchmark
    from robomd_ros.rollouts import versions

    known = truth.settings['policy'] if truth else f'builtin:{arguments.task}'
    if truth and arguments.policy not in ('', known):
        raise UserError(f'The recorded rollouts are of the policy {known}, not of '
                        f'{arguments.policy}; leave --policy out or give other rollouts.')
    asked = Benchmark(
        arguments.task, arguments.policy or known,
        read_catalogue(arguments.task, arguments.catalogue),
        tuple(arguments.searchers.split(',')), arguments.rollouts, arguments.seeds, arguments.out,
        arguments.pool is not None, versions())
    asked.check()
    check_writable(asked.out / FIGURE)
    if truth:
        truth.check(asked.catalogue)
    return asked


@contextmanager
def _bar(title: str, asked: 'Benchmark') -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    total = len(asked.searchers) * asked.seeds * asked.rollouts
    with tqdm(total=total, desc=title, unit='rollout') as bar:
        yield lambda rollouts: bar.update(rollouts) and None
