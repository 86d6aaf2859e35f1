# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Two diagnoses compared on the same trials: two policies, or one before and after."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path
from typing import Any

from robomd_ros.diagnosis.averages import mean_change
from robomd_ros.diagnosis.evidence import rate_of
from robomd_ros.diagnosis.failure_map import Rate
from robomd_ros.diagnosis.reading import Diagnosed
from robomd_ros.diagnosis.statistics import compare, CONFIDENCE, Failures, holm, Paired
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import write_whole

FORMAT = 'robomd_ros/comparison'
VERSION = 1
COMPARISON_FILE = 'comparison.json'
# Settings that give a trial its initial state and a perturbation its meaning -> what users say.
SAME = {'task': 'task', 'catalogue_digest': 'catalogue', 'seed': 'seed', 'horizon': 'horizon',
        'world': 'world', 'model_digest': 'world model', 'fidelity': 'fidelity'}


@dataclass(frozen=True)
class Change:
    """
    How often a condition failed in each of two diagnoses, on the trials that both have.

    name: of the perturbation, or nominal. slot, sentence: as in the failure map. a, b: the rates
    on these trials, with Wilson intervals. paired: b compared with a; p_holm over the catalogue.
    verdict: 'worse' or 'better' where shown, of b; else 'not shown'.
    """

    name: str
    slot: str
    sentence: str
    a: Rate
    b: Rate
    paired: Paired
    verdict: str


@dataclass(frozen=True)
class Overall:
    """
    How the mean failure rate changed, each perturbation counting the same.

    perturbations: with trials that both diagnoses have. pairs: trials, over all of them.
    a, b: the mean failure rates. change: b less a. interval: its 95% interval, from the effective
    number of pairs (robomd_ros.diagnosis.averages), since the perturbations share initial states.
    """

    perturbations: int
    pairs: int
    a: float
    b: float
    change: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """
    Two diagnoses, a and b.

    a, b: settings of each. nominal: of the nominal scene, not among changes. changes: of every
    perturbation of the catalogue; those without common trials come last, and have 0 pairs.
    """

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    overall: Overall
    nominal: Change
    changes: tuple[Change, ...]

    def to_json(self) -> str:
        """Return the text of comparison.json; docs/measures.md describes it."""
        content = {'format': FORMAT, 'version': VERSION, **asdict(self)}
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + '\n'


def differences(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return in which of the settings named a and b differ, in words; '' if in none."""
    def told(value: object) -> str:
        text = str(value)
        return text if len(text) <= 24 else f'{text[:8]}...'

    return ' and '.join(f'{SAME[name]} ({told(a.get(name))} and {told(b.get(name))})'
                        for name in names if a.get(name) != b.get(name))


def compare_diagnoses(a: Diagnosed, b: Diagnosed) -> Comparison:
    """
    Compare b with a on the trials both have, on rollouts planned without looking at outcomes.

    Raises UserError unless they are of the same catalogue, seed, task, horizon, world, world model
    and fidelity, and have such trials in common.
    """
    if different := differences(a.map.settings, b.map.settings, tuple(SAME)):
        raise UserError('The two cannot be compared: they differ in '
                        f'{different}; diagnose one of them anew with what the other has.')
    pairs = [(a.evidence.fixed((row.name,)), b.evidence.fixed((row.name,)))
             for row in b.map.perturbations]
    known = [(first, second) for first, second in pairs if first.keys() & second.keys()]
    if not known:
        raise UserError('The two cannot be compared: they have no confirmation rollouts of one '
                        'perturbation on the same trials; diagnose both with the searcher sweep.')
    compared = [_compare(first, second) for first, second in pairs]
    adjusted = holm([each.p for each in compared])
    changes = [
        _change(row.name, row.slot, row.sentence, *both, replace(each, p_holm=p))
        for row, both, each, p in zip(b.map.perturbations, pairs, compared, adjusted, strict=True)]
    nominal = a.evidence.fixed(()), b.evidence.fixed(())
    return Comparison(
        a.map.settings, b.map.settings, _overall(known),
        _change('nominal', '', b.map.nominal.sentence, *nominal, _compare(*nominal)),
        tuple(sorted(changes, key=_order)))


def write_comparison(out: Path, comparison: Comparison) -> Path:
    """Write OUT/comparison.json, whole; return its path; raise LedgerError if it cannot be."""
    path = out / COMPARISON_FILE
    write_whole(path, comparison.to_json().encode())
    return path


def _compare(a: Failures, b: Failures) -> Paired:
    return compare(b, a)


def _change(name: str, slot: str, sentence: str, a: Failures, b: Failures,
            paired: Paired) -> Change:
    trials = a.keys() & b.keys()
    verdict = 'not shown'
    if paired.difference and paired.p_holm < 1 - CONFIDENCE:
        verdict = 'worse' if paired.difference > 0 else 'better'
    return Change(name, slot, sentence, rate_of({trial: a[trial] for trial in trials}),
                  rate_of({trial: b[trial] for trial in trials}), paired, verdict)


def _overall(pairs: Sequence[tuple[Failures, Failures]]) -> Overall:
    shared = [a.keys() & b.keys() for a, b in pairs]

    def mean(policy: Iterable[Failures]) -> float:
        rates = [sum(failed[trial] for trial in trials) / len(trials)
                 for failed, trials in zip(policy, shared, strict=True)]
        return sum(rates) / len(rates)

    change, interval = mean_change([(b, a) for a, b in pairs])
    return Overall(len(pairs), sum(map(len, shared)), mean(a for a, _ in pairs),
                   mean(b for _, b in pairs), change, interval)


def _order(change: Change) -> tuple[Any, ...]:
    """Put what changed surely first, what got worse before what got better."""
    shown = ('worse', 'better', 'not shown').index(change.verdict)
    difference = change.paired.difference
    return difference is None, shown, -abs(difference or 0.0), change.name
