# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From the ledger to the failure map: what is counted, compared with nominal, and ranked."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, UTC
from typing import Any

from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis.failure_map import (
    ConditionRow,
    FailureMap,
    Interaction,
    MapRow,
    MinimalSet,
    Rate,
)
from robomd_ros.diagnosis.statistics import compare, confidence_sequence, Failures, holm, wilson
from robomd_ros.rollouts.ledger import End, Ledger

Names = tuple[str, ...]
_FIXED = ('control', 'confirmation')  # planned without looking at outcomes


class Evidence:
    """
    What has ended, by condition.

    Every method takes the condition's names, ordered by slot; () is nominal.
    """

    def __init__(self, ends: Sequence[End]) -> None:
        """Sort the ends."""
        self._failed: dict[tuple[Names, bool], dict[int, bool]] = defaultdict(dict)
        self.invalid: Counter[Names] = Counter()
        self.reasons: Counter[str] = Counter()
        self.names = {end.names for end in ends}
        for end in ends:
            if end.verdict == 'invalid':
                self.invalid[end.names] += 1
                self.reasons[end.reason] += 1
            else:
                fixed = end.purpose in _FIXED
                self._failed[end.names, fixed][end.trial] = end.verdict == 'failure'

    def fixed(self, names: Names) -> Failures:
        """Return the valid rollouts that were planned without looking at outcomes."""
        return self._failed.get((names, True), {})

    def discovered(self, names: Names) -> Failures:
        """Return the valid rollouts that the searcher chose."""
        return self._failed.get((names, False), {})

    def rate(self, names: Names) -> Rate:
        """Return the rate of those of fixed, with its Wilson interval."""
        return rate_of(self.fixed(names))

    def counted(self, names: Names) -> dict[str, Any]:
        """Return what rows of the map say of the condition."""
        fixed, discovered = self.fixed(names), self.discovered(names)
        discovery = None
        if discovered:
            n, failures = len(discovered), sum(discovered.values())
            discovery = Rate(n, failures, failures / n, confidence_sequence(failures, n))
        rate = rate_of(fixed) if fixed or discovery is None else discovery
        source = 'confirmation' if fixed else 'discovery' if discovery else ''
        return {'n': rate.n, 'failures': rate.failures, 'failure_rate': rate.failure_rate,
                'interval': rate.interval, 'source': source, 'discovery': discovery,
                'anytime': confidence_sequence(rate.failures, rate.n),
                'invalid': self.invalid[names]}


def rate_of(failed: Failures) -> Rate:
    """Return the rate of rollouts that were planned, with its Wilson interval."""
    n, failures = len(failed), sum(failed.values())
    return Rate(n, failures, failures / n if n else None, wilson(failures, n))


def failure_map(
    ledger: Ledger,
    catalogue: Catalogue,
    stopped: str = '',
    minimal_sets: tuple[MinimalSet, ...] = (),
    interactions: tuple[Interaction, ...] = (),
    **of_perturbations: Sequence[float | None] | None,
) -> FailureMap:
    """
    Return the failure map of what has ended so far.

    stopped: why nothing more is to come. of_perturbations: suspicion, search_mass and estimate,
    one number or None a perturbation in the catalogue's order, or None. Rates are of rollouts
    under one perturbation alone, or none; several together have rows of their own.
    """
    evidence = Evidence(ledger.ends())
    columns = {name: values for name, values in of_perturbations.items() if values is not None}
    rows = [MapRow(name=p.name, sentence=p.sentence, slot=p.slot, value=p.value,
                   **evidence.counted((p.name,)),
                   **_column(columns, place))
            for place, p in enumerate(catalogue)]
    stacked = [ConditionRow(perturbations=names, **evidence.counted(names))
               for names in evidence.names if len(names) > 1]
    done = ledger.tally()
    return FailureMap(
        created=datetime.now(UTC).isoformat(timespec='seconds'),
        command=ledger.command(), settings=ledger.settings, versions=ledger.versions,
        budget={'asked': ledger.settings['rollouts'], 'done': sum(done.values()),
                'invalid': done.get('invalid', 0)},
        stopped=stopped,
        nominal=MapRow(name='nominal', sentence='The nominal scene', **evidence.counted(())),
        perturbations=_ranked(_judged(rows, evidence, bool(stopped))),
        conditions=tuple(sorted(stacked, key=lambda row: (*_order(row), row.perturbations))),
        minimal_sets=minimal_sets, interactions=interactions,
        invalid_reasons=dict(evidence.reasons.most_common()))


def _column(columns: Mapping[str, Sequence[float | None]], place: int) -> dict[str, Any]:
    cells = {name: values[place] for name, values in columns.items()}
    return {name: None if value is None else float(value) for name, value in cells.items()}


def _judged(rows: list[MapRow], evidence: Evidence, ended: bool) -> list[MapRow]:
    """
    Compare with nominal on the same trials, Holm over the whole catalogue.

    A verdict comes at the end: of one that people looked for again and again, and stopped when
    they saw it, the test would say too much.
    """
    nominal = evidence.fixed(())
    compared = [compare(evidence.fixed((row.name,)), nominal) for row in rows]
    adjusted = holm([each.p for each in compared])
    judged = []
    for row, each, p in zip(rows, compared, adjusted, strict=True):
        versus = replace(each, p_holm=p) if each.pairs else None
        verdict = versus.verdict if versus and ended else 'not shown'
        judged.append(replace(row, versus_nominal=versus, verdict=verdict))
    return judged


def _order(row: MapRow | ConditionRow) -> tuple[float, ...]:
    """Rank by the interval's lower end, then its centre: what surely fails comes first."""
    low, high = row.interval
    return row.n == 0, -low, -(low + high) / 2


def _ranked(rows: list[MapRow]) -> tuple[MapRow, ...]:
    ordered = sorted(rows, key=lambda row: (*_order(row), row.name))
    return tuple(replace(row, rank=place if row.n else None)
                 for place, row in enumerate(ordered, 1))
