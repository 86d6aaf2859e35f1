# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a benchmark of searchers says: curves over the seeds, and rollouts until good enough."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, UTC
import json
from pathlib import Path
import re

import numpy as np
from robomd_ros.diagnosis.pool import Pool
from robomd_ros.diagnosis.search_benchmark import Benchmark, Judge, Run
from robomd_ros.diagnosis.statistics import CONFIDENCE
from robomd_ros.rollouts.ledger import write_whole

RESULTS_FILE = 'results.json'
TARGET = 0.98  # of the ceiling's pair accuracy
RESAMPLES = 10000  # of the bootstrap
REFERENCE = 'sweep'

Interval = tuple[float, float]


@dataclass(frozen=True)
class Band:
    """
    A mean over the seeds after 0, 1, 2, ... rollouts, with its 95% interval.

    low, high: of Student's t, None with a single seed.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


@dataclass(frozen=True)
class Standing:
    """
    How one searcher did.

    accuracy, by_mass, modes, false: as in Run. to_target: for each seed, after how many rollouts
    the accuracy had reached the target for good, None if it had not at the end. median: of these,
    None if infinite. interval: 95%, of order statistics, so that it promises its coverage whatever
    the distribution; None where an end is infinite or the seeds are too few. ratio: of the median
    to the sweep's. ratio_interval: its 95% interval, by bootstrap over the seeds. median_by_mass:
    the median of the search mass; None as well without one.
    seconds: the median time a run took that was the searcher's own.
    """

    searcher: str
    accuracy: Band
    by_mass: Band | None
    modes: Band
    false: Band
    to_target: tuple[int | None, ...]
    median: float | None
    interval: tuple[float | None, float | None] | None
    ratio: float | None
    ratio_interval: tuple[float | None, float | None] | None
    median_by_mass: float | None
    seconds: float


@dataclass(frozen=True)
class Prior:
    """
    How well the suspicion alone ranks the perturbations, before any perturbed rollout.

    accuracy: its pair accuracy. share: of the ceiling's distance from chance. states, rollouts: of
    the nominal scene that it was measured in, which are in no budget.
    """

    accuracy: float
    share: float
    states: int
    rollouts: int


@dataclass(frozen=True)
class Summary:
    """
    What the benchmark says.

    how: where the rollouts came from. ceiling: the pair accuracy of the true rates. target: the
    accuracy to be reached. rates, modes: the true ones, by name. prior: None if the truth has no
    suspicion.
    """

    how: str
    ceiling: float
    target: float
    rates: dict[str, float]
    modes: tuple[str, ...]
    prior: Prior | None
    standings: tuple[Standing, ...]


def summarize(asked: Benchmark, truth: Pool, runs: Sequence[Run]) -> Summary:
    """Return what the runs of run_benchmark say."""
    names, judged = asked.catalogue.names, Judge(truth, asked.catalogue)
    suspicion, prior = truth.suspicion, None
    if suspicion is not None:
        accuracy = judged.accuracy([suspicion.deviation[name] for name in names])
        prior = Prior(accuracy, judged.share(accuracy), suspicion.states, suspicion.rollouts)
    target = TARGET * judged.ceiling
    of = {name: [run for run in runs if run.searcher == name] for name in asked.searchers}
    times = {name: np.array([time_to(run.accuracy, target) for run in mine])
             for name, mine in of.items()}
    return Summary(
        how(asked, truth), judged.ceiling, target,
        {'nominal': judged.nominal, **dict(zip(names, judged.rates.tolist(), strict=True))},
        tuple(name for name, mode in zip(names, judged.modes, strict=True) if mode), prior,
        tuple(_standing(name, mine, target, times[name], times.get(REFERENCE))
              for name, mine in of.items()))


def time_to(accuracy: Sequence[float], target: float) -> float:
    """Return after how many rollouts the accuracy is at the target for good; inf for never."""
    below = np.flatnonzero(np.array(accuracy) < target)
    first = int(below[-1]) + 1 if below.size else 0
    return float(first) if first < len(accuracy) else np.inf


def band(curves: Sequence[Sequence[float]]) -> Band:
    """Return the mean of the curves, (seeds, points), and its 95% interval by Student's t."""
    from scipy.stats import t

    values = np.array(curves, float)
    mean, n = values.mean(axis=0), len(values)
    if n == 1:
        return Band(_rounded(mean), None, None)
    half = t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return Band(_rounded(mean), _rounded(mean - half), _rounded(mean + half))


def median_interval(values: Sequence[float] | np.ndarray) -> Interval | None:
    """
    Return the 95% interval of the median of what the values are drawn from; may be infinite.

    It is that of order statistics (e.g. Conover 1999, Practical Nonparametric Statistics, 3.2).
    None of fewer than six values, which are too few to promise 95%.
    """
    from scipy.stats import binom

    ordered = np.sort(values)
    place = int(binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    return (float(ordered[place - 1]), float(ordered[-place])) if place else None


def ratio_interval(values: np.ndarray, others: np.ndarray) -> Interval | None:
    """
    Return the 95% interval of the ratio of the medians, by bootstrap over the seeds; may have inf.

    values, others: (seeds,), of the same seeds. None with a single seed, and if a ratio of two
    infinite numbers is among what is drawn.
    """
    seeds = len(values)
    drawn = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))
    with np.errstate(invalid='ignore'):
        ratios = np.median(values[drawn], axis=1) / np.median(others[drawn], axis=1)
    if seeds == 1 or np.isnan(ratios).any():
        return None
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2],
                            method='inverted_cdf')  # takes no mean with what is infinite
    return float(low), float(high)


def write_results(asked: Benchmark, truth: Pool, summary: Summary, command: str) -> Path:
    """Write DIR/results.json, whole; return its path."""
    content = {
        'format': 'robomd_ros/search_benchmark', 'version': 1,
        'created': datetime.now(UTC).isoformat(timespec='seconds'), 'command': command,
        'replayed': asked.replayed, 'versions': asked.versions,
        'task': asked.task, 'policy': asked.policy, 'rollouts': asked.rollouts,
        'control': asked.settings(REFERENCE, 0).control, 'seeds': list(range(asked.seeds)),
        'max_perturbations': asked.settings(REFERENCE, 0).max_perturbations,
        'truth': {
            'digest': truth.digest, 'rollouts_per_condition': truth.trials,
            'created': truth.created, 'command': truth.command, 'versions': dict(truth.versions),
            'settings': dict(truth.settings)},
        'summary': asdict(summary)}
    text = re.sub(r'\[[^][{}"]*\]', lambda numbers: ' '.join(numbers[0].split()),  # on one line
                  json.dumps(content, indent=2))
    path = asked.out / RESULTS_FILE
    write_whole(path, f'{text}\n'.encode())
    return path


def how(asked: Benchmark, truth: Pool) -> str:
    """Return where the rollouts came from, in one sentence."""
    if asked.replayed:
        return (f'Replayed: no rollout was run; each was drawn, with replacement, from a recorded '
                f'pool of {truth.trials} a condition (digest {truth.digest[:12]}), whose rates '
                'are the true ones.')
    return (f'Run live; the true rates are those of a sweep of {truth.trials} rollouts a '
            f'condition (digest {truth.digest[:12]}).')


def _standing(searcher: str, runs: Sequence[Run], target: float, times: np.ndarray,
              reference: np.ndarray | None) -> Standing:
    median = float(np.median(times))
    ratio = within = None
    if reference is not None:
        with np.errstate(invalid='ignore'):
            ratio = _finite(median / float(np.median(reference)))
        within = ratio_interval(times, reference)
    masses = [run.by_mass for run in runs if run.by_mass is not None]
    return Standing(
        searcher, band([run.accuracy for run in runs]), band(masses) if masses else None,
        band([run.modes for run in runs]), band([run.false for run in runs]),
        tuple(int(time) if np.isfinite(time) else None for time in times),
        _finite(median), _ends(median_interval(times)), ratio, _ends(within),
        _finite(float(np.median([time_to(mass, target) for mass in masses]))) if masses else None,
        float(np.median([run.seconds for run in runs])))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _ends(interval: Interval | None) -> tuple[float | None, float | None] | None:
    return None if interval is None else (_finite(interval[0]), _finite(interval[1]))


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(np.round(values, 4).tolist())
