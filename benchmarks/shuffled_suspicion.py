# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
What becomes of a searcher that trusts the suspicion when the suspicion is wrong.

    python benchmarks/shuffled_suspicion.py [--pool benchmarks/pools/builtin_lift.npz]
        [--searcher gp] [--rollouts 420] [--seeds 4] [--shuffles 5] [--out FILE.json]

The benchmark of searchers is replayed with the numbers of the suspicion shuffled among the
perturbations, so that they say nothing.
"""

import argparse
from dataclasses import replace
import json
from pathlib import Path
import tempfile

import numpy as np
from robomd_ros.conditions import load_catalogue
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.diagnosis.pool import load_pool
from robomd_ros.diagnosis.search_benchmark import Benchmark, replayed, run_benchmark
from robomd_ros.diagnosis.search_summary import summarize
from robomd_ros.rollouts import versions
import torch
from tqdm import tqdm


def shuffled(pool, shuffle):
    """Return the pool with its suspicion's numbers shuffled."""
    names = list(pool.suspicion.deviation)
    other = dict(zip(names, np.random.default_rng(shuffle).permutation(names), strict=True))
    return replace(pool, suspicion=replace(
        pool.suspicion,
        deviation={name: pool.suspicion.deviation[other[name]] for name in names},
        gripper={name: pool.suspicion.gripper[other[name]] for name in names}))


def main():
    """Run the benchmark and print all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pool', type=Path, default=Path('benchmarks/pools/builtin_lift.npz'))
    parser.add_argument('--searcher', default='gp')
    for name, number in (('rollouts', 420), ('seeds', 4), ('shuffles', 5)):
        parser.add_argument(f'--{name}', type=int, default=number, help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, help='also write the results there, as JSON')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pool = load_pool(arguments.pool)
    task = pool.settings['task']
    catalogue = load_catalogue(default_catalogue(task))
    results = []
    total = arguments.shuffles * arguments.seeds * arguments.rollouts
    with tqdm(total=total, unit='rollout') as bar:
        for shuffle in range(arguments.shuffles):
            wrong = shuffled(pool, shuffle)
            with tempfile.TemporaryDirectory() as out:
                asked = Benchmark(task, pool.settings['policy'], catalogue, (arguments.searcher,),
                                  arguments.rollouts, arguments.seeds, Path(out), True, versions())
                summary = summarize(
                    asked, wrong, run_benchmark(asked, wrong, replayed(wrong), bar.update))
            to_target = summary.standings[0].to_target
            results.append({'shuffle': shuffle, 'suspicion_accuracy': summary.prior.accuracy,
                            'to_target': to_target})
            bar.write(f'suspicion {summary.prior.accuracy:.3f}, rollouts to target: {to_target}')
    times = [np.inf if time is None else time for each in results for time in each['to_target']]
    print(f'Median: {np.median(times):g} rollouts')
    if arguments.out:
        arguments.out.write_text(json.dumps({
            'searcher': arguments.searcher, 'rollouts': arguments.rollouts, 'replayed': True,
            'pool': pool.digest, 'median': float(np.median(times)), 'shuffles': results,
            'versions': versions()}, indent=2) + '\n')


if __name__ == '__main__':
    main()
