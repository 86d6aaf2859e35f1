# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The failure map in sentences that need no statistics to be read."""

from robomd_ros.diagnosis.failure_map import FailureMap, Interaction, MapRow, MinimalSet
from robomd_ros.diagnosis.statistics import hundredths
from robomd_ros.reports.table import count, interval, standings, tried


def findings(failure_map: FailureMap) -> list[str]:
    """
    Return what was found out, a sentence each, the most certain first.

    Failure modes come first, then sets that fail only together, pairs that fail otherwise than
    their members explain, what is suspected, and what is better than nominal. If nothing is shown
    to fail or suspected, the first sentence says so, and how much could have been missed.
    Times in 100 are the ends of 95% intervals: of the final ones if the diagnosis has ended, else
    of those that hold whenever one looks.
    """
    wording = {'failure mode': _failure_mode, 'suspected': _suspected,
               'better than nominal': _better}
    modes, suspected, better = (
        [write(failure_map, row) for row in standings(failure_map, which)]
        for which, write in wording.items())
    spoken = {row.name: row.sentence for row in failure_map.perturbations}
    sets = [_minimal_set(found, spoken) for found in failure_map.minimal_sets]
    known = {found.perturbations for found in failure_map.minimal_sets}
    pairs = [_interaction(found, spoken) for found in failure_map.interactions
             if found.verdict != 'not shown' and found.perturbations not in known]
    nothing = [] if modes or sets or suspected else [_nothing(failure_map)]
    return [*nothing, *modes, *sets, *pairs, *suspected, *better]


def times(ends: tuple[float, float]) -> str:
    """Write an interval of shares as times in a hundred: ``34 to 61 times in 100``."""
    return f'{_ends(ends)} times in 100'


def _ends(ends: tuple[float, float]) -> str:
    low, high = hundredths(ends)
    return str(low) if low == high else f'{low} to {high}'


def quoted(sentence: str) -> str:
    """Quote the sentence of a change within another one."""
    return f'"{sentence.rstrip(". ")}"'


def _failure_mode(failure_map: FailureMap, row: MapRow) -> str:
    nominal = failure_map.nominal
    return (f'{quoted(row.sentence)} fails {times(row.interval)}; {_ends(nominal.interval)} in '
            f'the nominal scene; {_rollouts(row, nominal)}.')


def _better(failure_map: FailureMap, row: MapRow) -> str:
    nominal = failure_map.nominal
    return (f'{quoted(row.sentence)} fails less often than the nominal scene: '
            f'{times(row.interval)}, against {_ends(nominal.interval)}; '
            f'{_rollouts(row, nominal)}.')


def _suspected(failure_map: FailureMap, row: MapRow) -> str:
    nominal = failure_map.nominal
    chosen = ' so far'
    if row.source == 'discovery':
        chosen = ', chosen by the searcher'
    elif failure_map.stopped:
        chosen = ', too few for the test'
    return (f'{quoted(row.sentence)} is suspected, not confirmed, to fail {times(row.anytime)} '
            f'({count(row.n, "rollout")}{chosen}); '
            f'{_ends(interval(failure_map, nominal))} in the nominal scene.')


def _rollouts(row: MapRow, nominal: MapRow) -> str:
    if row.n == nominal.n:
        return f'{count(row.n, "rollout")} each'
    return f'{count(row.n, "rollout")}, nominal {nominal.n:,}'


def _minimal_set(found: MinimalSet, spoken: dict[str, str]) -> str:
    rates = _listed([f'without {member.name}, {_ends(member.without.interval)}'
                     for member in found.members], 'and')
    doubt = '' if found.shown else '; that it takes all of them is suspected, not shown'
    return (f'{_together(found.perturbations, spoken)} fail together, {times(found.rate.interval)}'
            f'; {rates}; {count(found.rate.n, "rollout")} each{doubt}.')


def _interaction(found: Interaction, spoken: dict[str, str]) -> str:
    low, high = sorted(map(abs, hundredths(found.interval)))
    how = 'more' if found.excess > 0 else 'less'
    return (f'{_together(found.perturbations, spoken)} together fail {low} to {high} '
            f'points {how} often than the changes alone explain: {times(found.rate.interval)}, '
            f'where {100 * found.expected:.0f} would be expected; '
            f'{count(found.rate.n, "rollout")}.')


def _together(names: tuple[str, ...], spoken: dict[str, str]) -> str:
    return _listed([quoted(spoken.get(name, name)) for name in names], 'and')


def _listed(parts: list[str], word: str) -> str:
    *first, last = parts
    return f'{", ".join(first)} {word} {last}' if first else last


def _nothing(failure_map: FailureMap) -> str:
    """Say that no failure mode is shown, and how small a rate could still hide."""
    so_far = '' if failure_map.stopped else ' so far'
    text = f'No failure mode is shown{so_far}'
    rows = tried(failure_map)
    if not rows:
        return f'{text}: no change has a valid rollout.'
    if not failure_map.nominal.n:
        return f'{text}: the nominal scene, to compare with, has no valid rollout.'
    widest = max(rows, key=lambda row: interval(failure_map, row)[1])
    untried = len(failure_map.perturbations) - len(rows)
    also = f'; of {count(untried, "change")} nothing is known' if untried else ''
    most = hundredths(interval(failure_map, widest))[1]
    return (f'{text}; one that fails up to {most} times in 100 could still hide, as '
            f'{quoted(widest.sentence)} with its {count(widest.n, "rollout")} might{also}.')
