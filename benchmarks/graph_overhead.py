# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
What the ROS graph costs against rollouts in one process, and what a second executor brings.

    python benchmarks/graph_overhead.py [--rollouts 110] [--repeats 3] [--policy P]
        [--searcher sweep] [--out FILE.json]

The same sweep, so the very same rollouts, is run by `robomd diagnose` and by `robomd up` with one
and with two policy executors, in turn, as many times as asked. Rates are taken from the ledger,
from the first rollout's begin to the last one's end, so that starting up does not count.
"""

import argparse
from contextlib import closing
import json
import os
from pathlib import Path
import sqlite3
import subprocess
import sys
import tempfile

import numpy as np
from robomd_ros.rollouts.versions import versions
from tqdm import tqdm

WAYS = {'in process': ['diagnose'], 'graph, 1 executor': ['up', '--executors', '1'],
        'graph, 2 executors': ['up', '--executors', '2']}


def run(words, rollouts, policy, searcher):
    """Return rollouts per minute, and the median seconds a rollout itself took."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, '-m', 'robomd_ros.cli', *words, '--policy', policy,
            '--searcher', searcher, '--rollouts', str(rollouts), '--out', out]
        subprocess.run(command, check=True, capture_output=True, env={
            **os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'})
        with closing(sqlite3.connect(Path(out, 'ledger.sqlite'))) as ledger:
            # The first rollouts of each executor compile numba's functions.
            rows = ledger.execute('SELECT ended, duration FROM rollouts ORDER BY ended').fetchall()
    rows = rows[4:]
    ended, durations = np.array(rows).T
    return 60 * (len(rows) - 1) / (ended[-1] - ended[0]), float(np.median(durations))


def main():
    """Run the benchmark and print all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--rollouts', type=int, default=110, help='of a run (default: %(default)s)')
    parser.add_argument('--repeats', type=int, default=3, help='of each (default: %(default)s)')
    parser.add_argument('--policy', default='builtin:lift', help='(default: %(default)s)')
    parser.add_argument('--searcher', default='sweep', help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, help='also write the results there, as JSON')
    arguments = parser.parse_args()
    rates = {way: [] for way in WAYS}
    with tqdm(total=arguments.repeats * len(WAYS), unit='run') as bar:
        for _ in range(arguments.repeats):
            for way, words in WAYS.items():
                rate, seconds = run(
                    words, arguments.rollouts, arguments.policy, arguments.searcher)
                rates[way].append(rate)
                bar.write(f'{way:20} {rate:6.1f} rollouts a minute, {seconds:.3f} s a rollout')
                bar.update()
    alone, one, two = (np.array(rates[way]) for way in WAYS)
    cost, gain = 1 - one / alone, two / one
    print(f'The graph costs {np.median(cost):.1%} '
          f'(each run: {", ".join(f"{c:.1%}" for c in cost)})')
    print(f'Two executors run {np.median(gain):.2f} times as many rollouts a minute as one '
          f'(each run: {", ".join(f"{g:.2f}" for g in gain)})')
    if arguments.out:
        arguments.out.write_text(json.dumps({
            'rollouts_per_minute': rates, 'cost': float(np.median(cost)),
            'gain': float(np.median(gain)), 'rollouts': arguments.rollouts,
            'searcher': arguments.searcher, 'policy': arguments.policy, 'cores': os.cpu_count(),
            'versions': versions()}, indent=2) + '\n')


if __name__ == '__main__':
    main()
