# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From a diagnosis to the paper's measures of it, with the paper's own values beside them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, UTC
from functools import cached_property
import json
import math
from pathlib import Path
import re
from typing import Any

from robomd_ros.diagnosis.averages import mean_rate
from robomd_ros.diagnosis.confirmation import FIRST_TRIAL
from robomd_ros.diagnosis.measures import (
    Accuracy,
    ceiling,
    entropy,
    failure_severity,
    judge,
    modes_by_mass,
    wasserstein_uniform,
)
from robomd_ros.diagnosis.reading import Diagnosed
from robomd_ros.diagnosis.statistics import Failures
from robomd_ros.rollouts.ledger import write_whole
from robomd_ros.rollouts.reading import Entry

FORMAT = 'robomd_ros/measures'
VERSION = 1
MEASURES_FILE = 'measures.json'


@dataclass(frozen=True)
class PaperValue:
    """A value that the paper gives, for policies of its own. of: which, and where it says so."""

    value: float
    of: str


@dataclass(frozen=True)
class Measure:
    """
    A measure of a diagnosis.

    value: in the unit; None if it cannot be had, and note says why. n: how many of what counted
    says it is over. interval: 95%, None where none is to be had. abstained: pairs that were not
    judged, for want of a score. note: what it is of, and what to beware of.
    paper: what the paper gives, of other policies and catalogues; never part of value.
    """

    name: str
    value: float | None
    unit: str
    n: int
    counted: str
    note: str
    interval: tuple[float, float] | None = None
    abstained: int = 0
    paper: tuple[PaperValue, ...] = ()


PAPER: dict[str, tuple[PaperValue, ...]] = {
    'pair_accuracy.search_mass': (PaperValue(0.823, 'PPO, BC-MLP, Lift, Table I'),
                                  PaperValue(0.825, 'BC on Lift, Table III')),
    'entropy_bits': (PaperValue(2.11, 'lowest of six, HBC, Table II'),
                     PaperValue(2.79, 'highest, BCQ, Table II')),
    'exploration_nats': (PaperValue(2.8839, 'PPO, 21 actions, Sec. IV-A'),),
    'failure_modes': (PaperValue(3, 'fewest of six, BC, Table II'),
                      PaperValue(6, 'most, BCQ, Table II')),
    'fsi': (PaperValue(0.63, 'lowest of six, BC, Table II'),
            PaperValue(1.15, 'highest, BCQ, Table II')),
    'wasserstein_uniform': (PaperValue(0.0051, 'BC on Lift before, Fig. 7'),
                            PaperValue(0.0014, 'after fine-tuning, Fig. 7')),
}
_LIKE = {'failure_modes_by_mass': 'failure_modes', 'fsi_by_mass': 'fsi',
         'wasserstein_uniform.failure_rates': 'wasserstein_uniform',
         'wasserstein_uniform.search_mass': 'wasserstein_uniform'}


def measures(diagnosed: Diagnosed) -> tuple[Measure, ...]:
    """Return all measures of the diagnosis."""
    found = _Measuring(diagnosed)
    return tuple(found.pair_accuracies()) + (
        found.entropy(), *found.exploration(), found.failure_modes(), found.modes_by_mass(),
        *found.severities(), *found.evenness(), found.mean_rate())


def write_measures(out: Path, diagnosed: Diagnosed, found: Sequence[Measure]) -> Path:
    """
    Write DIR/measures.json, whole; return its path.

    out: DIR. docs/measures.md describes the file. Raises LedgerError if it cannot be written.
    """
    content = {
        'format': FORMAT, 'version': VERSION,
        'created': datetime.now(UTC).isoformat(timespec='seconds'),
        'map': {'created': diagnosed.map.created, 'settings': diagnosed.map.settings,
                'budget': diagnosed.map.budget},
        'rollouts': len(diagnosed.entries), 'measures': [asdict(each) for each in found]}
    path = out / MEASURES_FILE
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + '\n').encode())
    return path


def choices(entries: Sequence[Entry], max_perturbations: int) -> tuple[Counter[str], int]:
    """
    Return how often the searcher chose each perturbation, and how many choices cannot be told.

    entries: in the order asked for. max_perturbations: after so many, an episode begins anew.
    Of a condition of one perturbation, it was chosen. Of several it is the one that the rollout
    before, of the same environment and episode, did not have. If that had them all, one was chosen
    that was in force already, and nobody noted which: that choice cannot be told.
    """
    chosen: Counter[str] = Counter()
    untold = 0
    for environment in _environments(entries):
        before: tuple[str, ...] = ()
        applied = 0
        for entry in environment:
            names = entry.end.names
            added = names if len(names) == 1 else [name for name in names if name not in before]
            if len(added) == 1:
                chosen[added[0]] += 1
            else:
                untold += 1
            applied += 1
            if entry.end.verdict != 'success' or applied >= max_perturbations:
                before, applied = (), 0
            else:
                before = names
    return chosen, untold


def _environments(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the search's entries by environment, in the order it ran them."""
    steps: dict[int, dict[tuple[int, ...], Entry]] = defaultdict(dict)
    for place, entry in enumerate(entries):
        if entry.end.names and entry.end.trial < FIRST_TRIAL:
            # SEARCHER/PHASE/ENVIRONMENT/STEP of those that learn; others have no environments.
            key = re.fullmatch(r'\w+/(\d+)/(\d+)/(\d+)', entry.key)
            phase, environment, step = map(int, key.groups()) if key else (0, 0, place)
            steps[environment][phase, step] = entry
    return [[each[step] for step in sorted(each)] for each in steps.values()]


class _Measuring:
    """The measures of one diagnosis, each a Measure."""

    def __init__(self, diagnosed: Diagnosed) -> None:
        self._map, self._entries = diagnosed.map, diagnosed.entries
        self._rows = diagnosed.map.perturbations
        self._evidence = diagnosed.evidence
        self._fixed = [self._evidence.fixed((row.name,)) for row in self._rows]
        self._mass = self._column('search_mass')

    def pair_accuracies(self) -> Iterator[Measure]:
        """Return how well each score tells fixed rollouts that failed from those that did not."""
        discovered = [self._evidence.discovered((row.name,)) for row in self._rows]
        scores = {name: self._column(name) for name in ('search_mass', 'suspicion', 'estimate')}
        scores['discovery_rate'] = [_rate(failed) for failed in discovered]
        for name, column in scores.items():
            known = [score for score in column if score is not None]
            if known:
                yield self._accuracy(name, judge(column, *_counts(self._fixed)).accuracy,
                                     f'{_SCORES[name]}, against {self._outcomes}')
            else:
                yield self._measure(f'pair_accuracy.{name}', None, _SHARE, 0, 'pairs',
                                    f'{_SCORES[name]}, which this diagnosis has not')
        even, odd = [[{trial: each for trial, each in failed.items() if trial % 2 == half}
                      for failed in self._fixed] for half in (0, 1)]
        halves = judge([_rate(failed) for failed in even], *_counts(odd)) + judge(
            [_rate(failed) for failed in odd], *_counts(even))
        yield self._accuracy(
            'split_half_rate', halves.accuracy, 'the same of the failure rates of even trials, '
            f'against the outcomes of odd ones, and the reverse, of {self._outcomes}; rates of '
            'all trials do better')
        failures, successes = _counts(self._fixed)
        n = [sum(each) for each in zip(failures, successes, strict=True)]
        plugged = judge([_rate(failed) for failed in self._fixed], failures, successes).accuracy
        high = '' if plugged.value is None else (
            f'; observed rates in their place would say {plugged.value:.3f}, which is too high, '
            'as it calls luck skill')
        yield self._accuracy(
            'ceiling', ceiling(failures, n), 'what the true failure rates would score, estimated '
            f'from {self._outcomes}{high}')

    def entropy(self) -> Measure:
        """Return the entropy of the search mass."""
        value = entropy(self._mass, 2) if self._mass else None
        return self._of_mass('entropy_bits', value, 'bits', 'how widely the searcher would search '
                             f'on; {self._most(2)} bits if it preferred nothing')

    def exploration(self) -> Iterator[Measure]:
        """Return the entropy of what was chosen, and that of choosing evenly."""
        chosen, untold = choices(self._entries, self._map.settings['max_perturbations'])
        told = chosen.total()
        note = f'how widely {self._map.settings["searcher"]} did search, one choice a rollout'
        if untold:
            note += (f'; {untold:,} choices are not counted, of something that was in force '
                     'already among others, as it cannot be told which')
        yield self._measure('exploration_nats', entropy(list(chosen.values())) if told else None,
                            'nats', told, 'choices', note if told else 'nothing was chosen yet')
        yield self._measure(
            'exploration_nats.uniform', math.log(len(self._rows)) if self._rows else None, 'nats',
            len(self._rows), _PERTURBATIONS, 'of a searcher that chooses each equally often, ln N')

    def failure_modes(self) -> Measure:
        """Return how many perturbations are shown to fail more often than nominal."""
        compared = sum(row.versus_nominal is not None for row in self._rows)
        note = ('fail at least 10 points more often than nominal, and are shown to, on the same '
                'trials (exact McNemar, Holm over the catalogue)')
        if not compared:
            note = 'none was compared with nominal on the same trials'
        elif not self._map.stopped:
            note = 'verdicts come when the diagnosis has ended'
        known = compared and self._map.stopped
        return self._measure('failure_modes', len(self._map.failure_modes) if known else None,
                             _MODES, compared, self._of_all(compared), note)

    def modes_by_mass(self) -> Measure:
        """Return how many have much search mass."""
        return self._of_mass(
            'failure_modes_by_mass', modes_by_mass(self._mass) if self._mass else None,
            _MODES, 'have a search mass of 1 / (2 N) or more, which is likely how the '
            'paper counts; says what is searched, not what fails')

    def severities(self) -> Iterator[Measure]:
        """Return the failure severity index of the rates, and of the search mass."""
        rates = self._rates
        yield self._measure(
            'fsi', failure_severity(rates) if rates else None, 'sum of rates', len(rates),
            self._of_all(len(rates)), 'sum of P_i^2 / max P, P the failure rates, '
            f'{self._counted}; grows with the catalogue, and by chance where rollouts are few')
        yield self._of_mass('fsi_by_mass', failure_severity(self._mass) if self._mass else None,
                            'sum of shares', 'the same of the search mass; at most 1')

    def evenness(self) -> Iterator[Measure]:
        """Return the distances to even shares."""
        rates = self._rates
        yield self._measure(
            'wasserstein_uniform.failure_rates', wasserstein_uniform(rates) if rates else None,
            'share of 1', len(rates), self._of_all(len(rates)), 'distance of the failure rates, '
            'made to sum to 1, from 1 / N each: how uneven they are, and not how many succeed')
        yield self._of_mass(
            'wasserstein_uniform.search_mass',
            wasserstein_uniform(self._mass) if self._mass else None, 'share of 1',
            'the same of the search mass')

    def mean_rate(self) -> Measure:
        """Return the distance of the failure rates to none at all."""
        rates = [failed for failed in self._failed if failed]
        mean, interval = mean_rate(rates) if rates else (None, None)
        adaptive = len(rates) - sum(map(bool, self._fixed))
        why = [f'{adaptive} of {len(rates)} rates are of discovery'] * bool(adaptive) + [
            'the diagnosis has not ended'] * (not self._map.stopped)
        if why:
            interval = None  # it is for rollouts that were all planned, and have all been run
        without = f'; no interval, as {" and ".join(why)}' if rates and why else ''
        return self._measure(
            'wasserstein_zero', mean, 'failure rate', len(rates), self._of_all(len(rates)),
            'distance of the failure rates from 0, which is their mean, '
            f'{self._counted}{without}; robomd compare has its change from one policy to another',
            interval)

    @cached_property
    def _failed(self) -> list[Failures]:
        """Return the rollouts that count, as in the failure map."""
        return [fixed or self._evidence.discovered((row.name,))
                for row, fixed in zip(self._rows, self._fixed, strict=True)]

    @property
    def _rates(self) -> list[float]:
        return [rate for rate in map(_rate, self._failed) if rate is not None]

    @property
    def _counted(self) -> str:
        if not any(self._failed):
            return 'of which there is none yet'
        fixed = sum(map(bool, self._fixed))
        adaptive = sum(map(bool, self._failed)) - fixed
        chosen = f' and {adaptive} of discovery, which overstates what was chosen for failing'
        return f'{fixed} of confirmation{chosen * bool(adaptive)}'

    @property
    def _outcomes(self) -> str:
        n = sum(map(len, self._fixed))
        return (f'{n:,} confirmation rollouts of {sum(map(bool, self._fixed))} of '
                f'{len(self._rows)} perturbations')

    def _of_all(self, n: int) -> str:
        """Return what comes after n, the number of perturbations that something is over."""
        every = len(self._rows)
        return _PERTURBATIONS if n == every else f'of {every:,} {_PERTURBATIONS}'

    def _most(self, base: float) -> str:
        return f'{math.log(max(len(self._rows), 1), base):.2f}'

    def _column(self, name: str) -> list[Any]:
        column = [getattr(row, name) for row in self._rows]
        return column if any(each is not None for each in column) else []

    def _accuracy(self, name: str, found: Accuracy, note: str) -> Measure:
        if found.value is None:
            note += '; there is no pair to judge, and a larger confirm_share or a sweep gives some'
        elif found.interval is None:
            note += '; too few perturbations for an interval'
        return self._measure(f'pair_accuracy.{name}', found.value, _SHARE, found.pairs, 'pairs',
                             note, found.interval, found.abstained)

    def _of_mass(self, name: str, value: float | None, unit: str, note: str) -> Measure:
        if not self._mass:
            note = f'the searcher {self._map.settings["searcher"]} has told no search mass'
        return self._measure(name, value, unit, len(self._mass), _PERTURBATIONS, note)

    def _measure(self, name: str, value: float | None, unit: str, n: int, counted: str, note: str,
                 interval: tuple[float, float] | None = None, abstained: int = 0) -> Measure:
        return Measure(name, value, unit, n, counted, note, interval, abstained,
                       PAPER.get(_LIKE.get(name, name), ()))


_SHARE, _PERTURBATIONS, _MODES = 'share of pairs', 'perturbations', 'modes'
_SCORES: Mapping[str, str] = {
    'search_mass': 'how well the search mass ranks failed before successful rollouts',
    'suspicion': 'the same of the deviation of actions',
    'estimate': "the same of the failure rate that the searcher's model expects",
    'discovery_rate': "the same of the failure rate among the searcher's own rollouts"}


def _rate(failed: Failures) -> float | None:
    return sum(failed.values()) / len(failed) if failed else None


def _counts(conditions: Sequence[Failures]) -> tuple[list[int], list[int]]:
    """Return how many of each failed, and did not."""
    failures = [sum(failed.values()) for failed in conditions]
    return failures, [len(failed) - each
                      for failed, each in zip(conditions, failures, strict=True)]
