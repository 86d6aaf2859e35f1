# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Failure maps for the tests of what people see of them."""

from collections.abc import Iterable
from dataclasses import replace
import json
import math
from typing import Any

from robomd_ros.diagnosis.failure_map import (
    ConditionRow,
    FailureMap,
    Interaction,
    MapRow,
    Member,
    MinimalSet,
    Rate,
)
from robomd_ros.diagnosis.statistics import compare, confidence_sequence, Failures, holm, wilson

Counts = tuple[int, int]  # failures, n
RATES = {'red_table': (20, 20), 'big_cube': (17, 20), 'blue_cube': (9, 20), 'gray_robot': (4, 20)}
NOMINAL = (1, 20)
DONE = 'All rollouts that were asked for are done.'


def outwards(interval: tuple[float, float]) -> tuple[int, int]:
    """Return an interval of shares in whole per cent that holds all of it."""
    low, high = (round(100 * end, 6) for end in interval)  # 100 * 0.07 is above 7
    return math.floor(low), math.ceil(high)


def planned(failures: int, n: int) -> Rate:
    """Return a rate of confirmation."""
    return Rate(n, failures, failures / n if n else None, wilson(failures, n))


def found(failures: int, n: int) -> Rate:
    """Return a rate of discovery."""
    return Rate(n, failures, failures / n, confidence_sequence(failures, n))


def counted(counts: Counts, discovery: Counts | None = None) -> dict[str, Any]:
    """Return what rows say of these rollouts."""
    seen = found(*discovery) if discovery else None
    rate = planned(*counts) if counts[1] or seen is None else seen
    source = 'confirmation' if counts[1] else 'discovery' if seen else ''
    return {'n': rate.n, 'failures': rate.failures, 'failure_rate': rate.failure_rate,
            'interval': rate.interval, 'anytime': confidence_sequence(rate.failures, rate.n),
            'source': source, 'invalid': 0, 'discovery': seen}


def row(name: str, failures: int = 0, n: int = 0, discovery: Counts | None = None,
        **others: Any) -> MapRow:
    """Return a perturbation that failed so often of so many planned rollouts."""
    about = {'slot': f'{name.split("_")[-1]}.color', 'value': (1.0, 0.0, 0.0),
             'sentence': f'Change to {name}'}
    return MapRow(name, **about | counted((failures, n), discovery) | others)


def stack(*names: str, counts: Counts = (0, 0), discovery: Counts | None = None) -> ConditionRow:
    """Return perturbations in force together."""
    return ConditionRow(names, **counted(counts, discovery))


def outcomes(failures: int, n: int) -> Failures:
    """Return trials of which the first ones failed."""
    return {trial: trial < failures for trial in range(n)}


def a_map(rows: Iterable[MapRow], nominal: Counts = NOMINAL, **others: Any) -> FailureMap:
    """Return a failure map with verdicts; the rows are in the order of their ranks."""
    rows = list(rows)
    usual = outcomes(*nominal)
    compared = [compare(outcomes(each.failures, each.n) if each.source == 'confirmation' else {},
                        usual) for each in rows]
    judged = []
    for place, (each, versus, p) in enumerate(
            zip(rows, compared, holm([one.p for one in compared]), strict=True), 1):
        versus = replace(versus, p_holm=p)
        judged.append(replace(
            each, rank=place if each.n else None, verdict=versus.verdict,
            versus_nominal=versus if versus.pairs else None))
    content = {
        'created': '2026-11-23T16:00:00+00:00',
        'command': 'robomd diagnose --task lift --out DIR',
        'settings': {'task': 'lift', 'policy': 'builtin:lift', 'policy_digest': 'aa' * 32,
                     'catalogue': 'lift.yaml', 'catalogue_digest': 'bb' * 32, 'searcher': 'sweep',
                     'rollouts': 100, 'seed': 7, 'horizon': 100, 'parallel': 1, 'world': 'mujoco',
                     'model_digest': 'cc' * 32, 'fidelity': 'fast', 'renderer': 'egl'},
        'versions': {'robomd_ros': '0.1.0', 'mujoco': '3.9.0'},
        'budget': {'asked': 100, 'done': 100, 'invalid': 0}, 'stopped': DONE,
        'nominal': row('nominal', *nominal, slot='', value=None, sentence='The nominal scene')}
    return FailureMap(**content | {'perturbations': tuple(judged), **others})


def four(**others: Any) -> FailureMap:
    """Return a map of four perturbations."""
    return a_map((row(name, *counts) for name, counts in RATES.items()), **others)


def a_set(*names: str, whole: Counts = (11, 12), without: Counts = (1, 12),
          shown: bool = True) -> MinimalSet:
    """Return perturbations that fail together only."""
    needed = compare(outcomes(*whole), outcomes(*without))
    return MinimalSet(names, planned(*whole), tuple(
        Member(name, planned(*without), needed) for name in names), shown)


def a_pair(*names: str, excess: float, interval: tuple[float, float],
           verdict: str) -> Interaction:
    """Return two perturbations that fail together 9 times of 12."""
    return Interaction(names, planned(9, 12), 0.75 - excess, excess, interval, verdict)


def changed(failure_map: FailureMap, **keys: Any) -> str:
    """Return the text of the map's file, with other values at the top."""
    return json.dumps(json.loads(failure_map.to_json()) | keys)
