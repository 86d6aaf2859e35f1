# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The failure map: what a diagnosis returns; docs/failure_map.md describes its file."""

from dataclasses import asdict, dataclass, field
import json
from typing import Any

from robomd_ros.conditions.model import Value
from robomd_ros.diagnosis.statistics import Paired
from robomd_ros.errors import UserError

FORMAT = 'robomd_ros/failure_map'
VERSION = 2


@dataclass(frozen=True)
class Rate:
    """
    A failure rate.

    n: valid rollouts. failures: of those. failure_rate: failures / n, None while n is 0.
    interval: its 95% interval, (0, 1) while n is 0.
    """

    n: int
    failures: int
    failure_rate: float | None
    interval: tuple[float, float]


@dataclass(frozen=True)
class MapRow:
    """
    What is known of a perturbation alone, or of the nominal condition.

    sentence: the change in English. slot, value: what is changed to what; nominal has neither.
    source: the rollouts that are counted: 'confirmation', planned without looking at outcomes;
    'discovery' where there are none of those, chosen by the searcher; '' where there is none.
    n, failures, failure_rate, interval: their rate, with the Wilson interval if it is of
    confirmation, else with the anytime-valid one.
    anytime: interval of the same rate that holds whenever one looks, as while they are being run.
    invalid: rollouts that were; not in n.
    discovery: the rate among those rollouts alone, with its anytime-valid interval; None if none.
    versus_nominal: comparison on the same trials, of confirmation; None if there is none, and for
    nominal. verdict: what that says at the end: 'failure mode', 'not shown' or 'better than
    nominal'; 'not shown' until then.
    suspicion: how far the policy's actions deviate under the change; no rate. search_mass: what
    the searcher prefers, sums to 1 over the perturbations; no rate. estimate: the failure rate
    that the searcher's model expects. None if not measured, or not by this searcher; suspicion
    also where the policy gives no action.
    rank: 1 is the most failure-prone; None while n is 0, and for nominal.
    """

    name: str
    sentence: str
    n: int
    failures: int
    failure_rate: float | None
    interval: tuple[float, float]
    anytime: tuple[float, float]
    source: str
    invalid: int
    slot: str = ''
    value: Value | None = None
    discovery: Rate | None = None
    versus_nominal: Paired | None = None
    verdict: str = 'not shown'
    suspicion: float | None = None
    search_mass: float | None = None
    estimate: float | None = None
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
    anytime: tuple[float, float]
    source: str
    invalid: int
    discovery: Rate | None = None


@dataclass(frozen=True)
class Member:
    """
    What a minimal failing set is without one of its perturbations.

    name: of the one left out. without: the rate of the others together. needed: how the whole set
    compares with them on the same trials, Holm over the set's members.
    """

    name: str
    without: Rate
    needed: Paired


@dataclass(frozen=True)
class MinimalSet:
    """
    Perturbations that fail together and, each of them left out, do not.

    perturbations: their names, ordered by slot. rate: of all together, by confirmation.
    members: in the same order. shown: whether every member is shown to be needed.
    """

    perturbations: tuple[str, ...]
    rate: Rate
    members: tuple[Member, ...]
    shown: bool


@dataclass(frozen=True)
class Interaction:
    """
    Two perturbations together against what each alone explains.

    perturbations: their names, ordered by slot. rate: of both together. expected: the rate if
    each failed by itself, independently: 1 - (1 - a)(1 - b) / (1 - nominal).
    excess: rate less expected; interval: its 95% interval. verdict: 'more than its members' if
    the interval lies above 0, 'less than its members' if below, else 'not shown'.
    """

    perturbations: tuple[str, ...]
    rate: Rate
    expected: float
    excess: float
    interval: tuple[float, float]
    verdict: str


@dataclass(frozen=True)
class FailureMap:
    """
    What is known of every perturbation, by rank, and of the nominal condition beside them.

    created: ISO 8601. command: what the user gave. settings, versions: what the results depend on.
    budget: rollouts 'asked', 'done' (ended) and, among these, 'invalid'. stopped: why the
    diagnosis has ended, one sentence; empty while it goes on and after it was interrupted.
    conditions: the stacked ones that were tried. minimal_sets, interactions: what was found out
    about those. invalid_reasons: reason -> rollouts.
    """

    created: str
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    budget: dict[str, int]
    stopped: str
    nominal: MapRow
    perturbations: tuple[MapRow, ...]
    conditions: tuple[ConditionRow, ...] = ()
    minimal_sets: tuple[MinimalSet, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    invalid_reasons: dict[str, int] = field(default_factory=dict)

    @property
    def failure_modes(self) -> tuple[MapRow, ...]:
        """Return the perturbations that are shown to fail more often than nominal, by rank."""
        return tuple(row for row in self.perturbations if row.verdict == 'failure mode')

    def to_json(self) -> str:
        """Return the text of failure_map.json."""
        content = {'format': FORMAT, 'version': VERSION, **asdict(self)}
        for key in ('slot', 'value', 'versus_nominal', 'verdict', 'suspicion', 'search_mass',
                    'estimate', 'rank'):
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
                'nominal': _row(MapRow, content['nominal']),
                'perturbations': _rows(MapRow, content['perturbations']),
                'conditions': _rows(ConditionRow, content['conditions']),
                'minimal_sets': _rows(MinimalSet, content['minimal_sets']),
                'interactions': _rows(Interaction, content['interactions'])})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError('That is not a failure map that this version of robomd_ros can read '
                            f'({type(error).__name__}: {error}); make it anew.') from None


_NESTED: dict[str, type] = {'rate': Rate, 'discovery': Rate, 'without': Rate, 'needed': Paired,
                            'versus_nominal': Paired, 'members': Member}


def _rows(kind: type, contents: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(_row(kind, content) for content in contents)


def _row(kind: type, content: dict[str, Any]) -> Any:
    return kind(**{key: _value(key, value) for key, value in content.items()})


def _value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _row(_NESTED[key], value)
    if isinstance(value, list):
        return _rows(_NESTED[key], value) if key in _NESTED else tuple(value)
    return value
