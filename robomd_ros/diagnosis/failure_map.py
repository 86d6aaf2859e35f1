# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The failure map: what a diagnosis returns; docs/failure_map.md describes its file."""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, UTC
import json
from typing import Any

import numpy as np
from robomd_ros.conditions import Catalogue
from robomd_ros.conditions.model import Value
from robomd_ros.diagnosis.statistics import wilson
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import Ledger

FORMAT = 'robomd_ros/failure_map'
VERSION = 1


@dataclass(frozen=True)
class MapRow:
    """
    What is known of a perturbation alone, or of the nominal condition.

    sentence: the change in English. slot, value: what is changed to what; nominal has neither.
    n: valid rollouts. failures: of those. failure_rate: failures / n, None while n is 0.
    interval: its 95% Wilson interval, (0, 1) while n is 0. search_mass: what the searcher prefers,
    sums to 1 over the perturbations; None if it has no preferences. rank: 1 is the most
    failure-prone; None while n is 0, and for nominal. invalid: rollouts that were; not in n.
    """

    name: str
    sentence: str
    n: int
    failures: int
    failure_rate: float | None
    interval: tuple[float, float]
    invalid: int
    slot: str = ''
    value: Value | None = None
    search_mass: float | None = None
    rank: int | None = None


@dataclass(frozen=True)
class ConditionRow:
    """
    What is known of two perturbations or more in force together.

    perturbations: their names, ordered by slot. The rest is as in MapRow.
    """

    perturbations: tuple[str, ...]
    n: int
    failures: int
    failure_rate: float | None
    interval: tuple[float, float]
    invalid: int


@dataclass(frozen=True)
class FailureMap:
    """
    What is known of every perturbation, by rank, and of the nominal condition beside them.

    created: ISO 8601. command: what the user gave. settings, versions: what the results depend on.
    budget: rollouts 'asked', 'done' (ended) and, among these, 'invalid'.
    conditions: the stacked ones that were tried. invalid_reasons: reason -> rollouts.
    """

    created: str
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    budget: dict[str, int]
    nominal: MapRow
    perturbations: tuple[MapRow, ...]
    conditions: tuple[ConditionRow, ...] = ()
    invalid_reasons: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of failure_map.json."""
        content = {'format': FORMAT, 'version': VERSION, **asdict(self)}
        for key in ('slot', 'value'):
            del content['nominal'][key]
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + '\n'

    @staticmethod
    def from_json(text: str) -> 'FailureMap':
        """Return the failure map of such a text; raise UserError if it is none."""
        try:
            content = json.loads(text)
            if (content.pop('format'), content.pop('version')) != (FORMAT, VERSION):
                raise ValueError('it is of another format or version')
            return FailureMap(**content | {
                'nominal': _row(content['nominal']),
                'perturbations': tuple(_row(row) for row in content['perturbations']),
                'conditions': tuple(
                    ConditionRow(**_tuples(row)) for row in content['conditions']),
            })
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError('That is not a failure map that this version of robomd_ros can read '
                            f'({type(error).__name__}: {error}); make it anew.') from None


def failure_map(
    ledger: Ledger, catalogue: Catalogue, mass: np.ndarray | None = None,
) -> FailureMap:
    """
    Return the failure map of what has ended so far.

    mass: the search mass, one number a perturbation in the catalogue's order; None if there is
    none. Rates are of rollouts under one perturbation alone, or none; several together have rows
    of their own.
    """
    verdicts: dict[tuple[str, ...], Counter[str]] = {(): Counter()}
    reasons: Counter[str] = Counter()
    for count in ledger.counts():
        verdicts.setdefault(count.names, Counter())[count.verdict] += count.rollouts
        if count.verdict == 'invalid':
            reasons[count.reason] += count.rollouts
    rows = [MapRow(name=p.name, sentence=p.sentence, slot=p.slot, value=p.value,
                   search_mass=None if mass is None else float(mass[place]),
                   **_rate(verdicts.get((p.name,), Counter())))
            for place, p in enumerate(catalogue)]
    stacked = [ConditionRow(perturbations=names, **_rate(verdicts[names]))
               for names in verdicts if len(names) > 1]
    return FailureMap(
        created=datetime.now(UTC).isoformat(timespec='seconds'),
        command=ledger.command(), settings=ledger.settings, versions=ledger.versions,
        budget={'asked': ledger.settings['rollouts'],
                'done': sum(counter.total() for counter in verdicts.values()),
                'invalid': reasons.total()},
        nominal=MapRow(name='nominal', sentence='The nominal scene', **_rate(verdicts[()])),
        perturbations=_ranked(rows),
        conditions=tuple(sorted(stacked, key=lambda row: (*_order(row), row.perturbations))),
        invalid_reasons=dict(reasons.most_common()))


def _rate(verdicts: Counter[str]) -> dict[str, Any]:
    failures = verdicts['failure']
    n = failures + verdicts['success']
    return {'n': n, 'failures': failures, 'failure_rate': failures / n if n else None,
            'interval': wilson(failures, n), 'invalid': verdicts['invalid']}


def _order(row: MapRow | ConditionRow) -> tuple[float, ...]:
    """Rank by the interval's lower end, then its centre: what surely fails comes first."""
    low, high = row.interval
    return row.n == 0, -low, -(low + high) / 2


def _ranked(rows: list[MapRow]) -> tuple[MapRow, ...]:
    ordered = sorted(rows, key=lambda row: (*_order(row), row.name))
    return tuple(replace(row, rank=place if row.n else None)
                 for place, row in enumerate(ordered, 1))


def _row(content: dict[str, Any]) -> MapRow:
    return MapRow(**_tuples(content))


def _tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()}
