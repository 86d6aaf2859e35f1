# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
What the suspicion of a policy is worth, against failure rates measured by a sweep of it.

    robomd up --searcher sweep --rollouts 2200 --policy builtin:lift --out runs/sweep
    python benchmarks/suspicion.py --pool runs/sweep [--policy builtin:lift] [--seeds 3]
        [--out docs/results/suspicion.json] [--figure docs/suspicion.png]

The suspicion is measured in this process, from other initial states for each of the seeds. Its
pair accuracy is that expected of rollouts at the measured rates p: the sum of p_i (1 - p_j)
[s_i > s_j, half if equal] over that of p_i (1 - p_j). The ceiling is the same of p itself. That
its ranking and its outcomes have the same luck in them makes it rather too high, and the share of
it that is reached, (accuracy - 0.5) / (ceiling - 0.5), rather too low.
"""

import argparse
from collections import Counter
from contextlib import closing
import json
import os
from pathlib import Path
import shlex
import sqlite3
import sys
import time

if __name__ == '__main__':  # before the libraries that read them are loaded
    os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', LP_NUM_THREADS='1')

import numpy as np
from robomd_ros.conditions import Condition, load_catalogue
from robomd_ros.diagnosis.measures import judge
from robomd_ros.diagnosis.statistics import wilson
from robomd_ros.policies import load_policy
from robomd_ros.reports.figures import LIGHT
from robomd_ros.reports.suspicion import COLORS, kind
from robomd_ros.rollouts import LocalRunner, versions
from robomd_ros.worlds.mujoco_world import MujocoWorld
from scipy.stats import spearmanr
from tqdm import tqdm


def read_pool(pool):
    """Return the sweep's settings and, by perturbation, how many rollouts failed and how many."""
    path = pool / 'ledger.sqlite' if pool.is_dir() else pool
    with closing(sqlite3.connect(f'{path.resolve().as_uri()}?mode=ro', uri=True)) as ledger:
        settings = json.loads(ledger.execute('SELECT settings FROM run').fetchone()[0])
        rows = ledger.execute('SELECT condition, verdict FROM rollouts WHERE verdict IN (?, ?)',
                              ('failure', 'success')).fetchall()
    if settings['searcher'] != 'sweep':
        raise SystemExit(f'{path} is of the searcher {settings["searcher"]}, whose rates are '
                         'biased; give a sweep.')
    ended = [(names[0], verdict) for condition, verdict in rows
             if len(names := json.loads(condition)) == 1]
    number = Counter(name for name, _ in ended)
    failed = Counter(name for name, verdict in ended if verdict == 'failure')
    return settings, {name: (failed[name], number[name]) for name in number}


def measure(policy, settings, catalogue, seeds):
    """Return, for each seed, the perturbations' deviations and the seconds these took."""
    world = MujocoWorld(settings['task'], policy.needs, settings['fidelity'], settings['horizon'])
    if (world.info.model_digest, policy.digest, catalogue.digest) != tuple(
            settings[name] for name in ('model_digest', 'policy_digest', 'catalogue_digest')):
        raise SystemExit('The sweep is of another policy, catalogue or model; sweep this one.')
    conditions = [Condition((perturbation,)) for perturbation in catalogue]
    measured = []
    for seed in range(seeds):
        with tqdm(total=len(catalogue), desc=f'seed {seed}', unit='change') as bar:
            began = time.perf_counter()
            found = LocalRunner(world, policy).deviations(
                conditions, seed, lambda done, bar=bar: bar.update(done - bar.n))
            measured.append((found, time.perf_counter() - began))
    world.close()
    return measured


def worth(scores, rates):
    """Return the pair accuracy, its interval, the share of the ceiling, and Spearman's rho."""
    accuracy = judge(list(scores), rates, 1 - rates).accuracy
    ceiling = judge(list(rates), rates, 1 - rates).accuracy.value
    return {'accuracy': accuracy.value, 'interval': accuracy.interval, 'ceiling': ceiling,
            'share': (accuracy.value - 0.5) / (ceiling - 0.5),
            'spearman': float(spearmanr(scores, rates).statistic)}


def errors(scores, rates, groups):
    """Return, by group, which share of all misjudged pairs has a member in it."""
    pairs = judge(list(scores), rates, 1 - rates)
    wrong = pairs.judged - pairs.right
    found = {}
    for group in dict.fromkeys(groups):
        inside = np.array(groups) == group
        found[group] = float(wrong[inside[:, None] | inside].sum() / wrong.sum())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def draw(rows, title, note, path):
    """Draw the suspicion of each perturbation beside its failure rate, the highest on top."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    ranked = sorted(rows, key=lambda name: -rows[name]['suspicion'])
    colors = [COLORS[rows[name]['kind']] for name in ranked]
    rates = np.array([rows[name]['failure_rate'] for name in ranked])
    intervals = np.array([rows[name]['interval'] for name in ranked])
    places = range(len(ranked))
    figure = Figure(figsize=(10, 1.9 + 0.25 * len(ranked)), dpi=160, facecolor='white')
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(0.14, 0.1, 0.97, 0.82, wspace=0.06)
    left.barh(places, [rows[name]['suspicion'] for name in ranked], height=0.72, color=colors)
    left.set_xlabel('suspicion (no rollout under a change)')
    left.set_yticks(places, ranked, parse_math=False)
    left.set_ylim(len(ranked) - 0.4, -0.6)
    right.barh(places, rates, height=0.72, color=colors, alpha=0.75)
    right.errorbar(rates, places, xerr=np.abs(intervals.T - rates), fmt='none', linewidth=1.2,
                   ecolor=LIGHT.ink, capsize=2)
    right.set_xlim(0, 1.01)
    right.set_xticks(np.linspace(0, 1, 6), [f'{tick:.0%}' for tick in np.linspace(0, 1, 6)])
    right.set_xlabel('failure rate, measured (95% Wilson interval)')
    for axes in (left, right):
        axes.tick_params(length=0)
        axes.grid(axis='x', color=LIGHT.line, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    kinds = dict.fromkeys(row['kind'] for row in rows.values())
    left.legend(handles=[Patch(color=COLORS[each], label=each) for each in kinds],
                title='kind of change', frameon=False, loc='lower right')
    figure.text(0.02, 0.96, title, fontsize=13, weight='bold', color=LIGHT.ink, va='top')
    figure.text(0.02, 0.91, note, fontsize=10, color=LIGHT.muted, va='top')
    figure.savefig(path)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--pool', type=Path, required=True, help="a sweep's folder or its ledger")
    parser.add_argument('--policy', default='builtin:lift')
    parser.add_argument('--seeds', type=int, default=3, help='of the nominal rollouts')
    parser.add_argument('--out', type=Path, default=Path('docs/results/suspicion.json'))
    parser.add_argument('--figure', type=Path, default=Path('docs/suspicion.png'))
    arguments = parser.parse_args()
    settings, counts = read_pool(arguments.pool)
    catalogue = load_catalogue(settings['catalogue'])
    policy = load_policy(arguments.policy, settings['task'])
    measured = measure(policy, settings, catalogue, arguments.seeds)
    failed, number = np.array([counts[name] for name in catalogue.names]).T
    rates = failed / number
    seeds = []
    for seed, (found, seconds) in enumerate(measured):
        seeds.append({
            'seed': seed, 'states': found[0].states, 'seconds': seconds,
            'translation': worth([each.translation for each in found], rates),
            'gripper': worth([each.gripper for each in found], rates)})
        print(f'seed {seed}: {found[0].states} states, {seconds:.0f} s;',
              'accuracy {accuracy:.3f} of {ceiling:.3f}, share {share:.2f}, Spearman '
              '{spearman:.2f}'.format(**seeds[-1]['translation']))
    first = [each.translation for each in measured[0][0]]
    rows = {
        p.name: {'slot': p.slot, 'kind': kind(p), 'suspicion': each.translation,
                 'gripper': each.gripper, 'failures': int(f), 'n': int(n),
                 'failure_rate': f / n, 'interval': wilson(int(f), int(n))}
        for p, each, f, n in zip(catalogue, measured[0][0], failed, number, strict=True)}
    misled = {'by_slot': errors(first, rates, [p.slot for p in catalogue]),
              'by_perturbation': errors(first, rates, list(catalogue.names))}
    arguments.out.write_text(json.dumps({
        'policy': arguments.policy, 'pool': {name: settings[name] for name in (
            'task', 'policy_digest', 'catalogue_digest', 'model_digest', 'fidelity', 'horizon',
            'seed')},
        'seeds': seeds, 'perturbations': rows, 'misjudged_pairs_with_seed_0': misled,
        'command': shlex.join(['python', *sys.argv]), 'versions': versions()}, indent=2) + '\n')
    print('of the misjudged pairs, have a member in: ' + ', '.join(
        f'{slot} {share:.0%}' for slot, share in misled['by_slot'].items()))
    draw(rows, f'What suspicion says of failures: {arguments.policy}',
         '{} states of 4 nominal rollouts, none under a change; rates of {} rollouts each; pair '
         'accuracy {:.2f} of {:.2f}, Spearman {:.2f}'.format(
             seeds[0]['states'], min(number), *(seeds[0]['translation'][name] for name in (
                 'accuracy', 'ceiling', 'spearman'))), arguments.figure)


if __name__ == '__main__':
    main()
