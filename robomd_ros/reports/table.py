# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The failure map in words: a headline, a table for a terminal, and how numbers are written."""

import textwrap

from robomd_ros.diagnosis.failure_map import ConditionRow, FailureMap, MapRow

WIDTH = 96  # columns of the table at most
NAME = 28   # of a name
BAR = 24    # of a bar


def percent(share: float | None) -> str:
    """Write a share from 0 to 1 in per cent; 0% and 100% only where it is exactly that."""
    if share is None:
        return '–'
    if 0 < share < 0.005:
        return '<1%'
    if 0.995 <= share < 1:
        return '>99%'
    return f'{share:.0%}'


def percents(interval: tuple[float, float]) -> str:
    """Write an interval of shares from 0 to 1 in per cent, e.g. ``2–16%``."""
    low, high = interval
    return f'{100 * low:.0f}–{100 * high:.0f}%'


def no_rate(row: MapRow | ConditionRow) -> str:
    """Say why there is no rate: ``not tried``, ``3 invalid``."""
    return f'{row.invalid:,} invalid' if row.invalid else 'not tried'


def count(number: int, thing: str) -> str:
    """Write a number of things: ``1 rollout``, ``2 rollouts``."""
    return f'{number:,} {thing}' + ('' if number == 1 else 's')


def tried(failure_map: FailureMap) -> list[MapRow]:
    """Return the perturbations with a valid rollout, by rank."""
    return [row for row in failure_map.perturbations if row.n]


def above_nominal(failure_map: FailureMap) -> list[MapRow]:
    """Return the perturbations whose interval lies wholly above nominal's, by rank; not a test."""
    if not failure_map.nominal.n:
        return []
    return [row for row in tried(failure_map)
            if row.interval[0] > failure_map.nominal.interval[1]]


def headline(failure_map: FailureMap) -> str:
    """Return the one sentence to remember, without a full stop."""
    rows = tried(failure_map)
    if not rows:
        return 'No perturbation has a valid rollout yet'
    worst = rows[0]
    if len(rows) == 1:
        return (f'{worst.name}, the only perturbation tried, failed in {worst.failures:,} of '
                f'{count(worst.n, "rollout")}')
    of = count(len(rows), 'perturbation')
    if len(rows) < len(failure_map.perturbations):
        of = f'the {of} tried'
    often = sum(2 * row.failures > row.n for row in rows)
    if often:
        whose = 'its' if often == 1 else 'their'
        return f'{often} of {of} failed in more than half of {whose} rollouts'
    if worst.failures:
        return ('No perturbation failed in more than half of its rollouts; highest in the ranking '
                f'is {worst.name}, with {worst.failures:,} of {worst.n:,}')
    return f'None of {of} failed in any rollout'


def spent(failure_map: FailureMap) -> str:
    """Return how much of the budget is spent, and what was invalid, for people."""
    budget = failure_map.budget
    text = f'{budget["done"]:,} of {count(budget["asked"], "rollout")}'
    if budget['invalid']:
        text += f', {budget["invalid"]:,} of them invalid and not counted'
    reasons = ', '.join(f'{reason} {number:,}'
                        for reason, number in failure_map.invalid_reasons.items())
    return f'{text} ({reasons})' if reasons else text


def map_table(failure_map: FailureMap) -> str:
    """Return the ranked failure map for a terminal, at most WIDTH columns, nominal first."""
    rows = [failure_map.nominal, *failure_map.perturbations]
    with_mass = any(row.search_mass is not None for row in rows)
    cells = [_header(with_mass), *(_cells(row, with_mass) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    bar = min(BAR, WIDTH - sum(widths) - 2 * len(widths))
    bars = [f'0%{"100%":>{bar - 2}}', *(_bar(row, bar) for row in rows)]
    table = ['  '.join([*map(_aligned, line, widths, range(len(line))), drawn]).rstrip()
             for line, drawn in zip(cells, bars, strict=True)]
    width = sum(widths) + 2 * len(widths) + bar
    rule = '─' * width
    return '\n'.join([*_paragraphs(_title(failure_map), width), '',
                      table[0], rule, table[1], rule, *table[2:], rule,
                      *_paragraphs(_legend(failure_map, with_mass), width)])


def _title(failure_map: FailureMap) -> list[str]:
    settings = failure_map.settings
    return [
        f'{headline(failure_map)}.',
        f'{settings["task"]}, policy {settings["policy"]}, searcher {settings["searcher"]}, '
        f'seed {settings["seed"]}: {spent(failure_map)}.',
    ]


def _legend(failure_map: FailureMap, with_mass: bool) -> list[str]:
    lines = ['Failed: failures / valid rollouts of that change alone. Interval: 95% Wilson. Rank: '
             'by its lower end. Bar: █ to the lower end, ▓ to the rate, ░ to the upper end.']
    if with_mass:
        lines.append('Mass: what the searcher prefers, as a share of 1; not a failure rate.')
    if failure_map.settings['searcher'] != 'sweep':
        lines.append('The searcher chose what to try from what had failed before, which biases '
                     'rates: measure them with the searcher sweep.')
    return lines


def _paragraphs(texts: list[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, width)]


def _header(with_mass: bool) -> list[str]:
    return ['rank', 'perturbation', 'failed', 'rate', '95% interval', *['mass'] * with_mass]


def _cells(row: MapRow, with_mass: bool) -> list[str]:
    name = row.name if len(row.name) <= NAME else f'{row.name[:NAME - 1]}…'
    mass = '' if row.search_mass is None else f'{row.search_mass:.3f}'
    return [str(row.rank or ''), name, f'{row.failures:,} / {row.n:,}', percent(row.failure_rate),
            percents(row.interval) if row.n else '–', *[mass] * with_mass]


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 1 else cell.rjust(width)


def _bar(row: MapRow, width: int) -> str:
    """Draw the interval and the rate in it; the words instead where there is no rate."""
    if row.failure_rate is None:
        return no_rate(row)
    low, rate, high = (round(width * share)
                       for share in (row.interval[0], row.failure_rate, row.interval[1]))
    return '█' * low + '▓' * (rate - low) + '░' * (high - rate)
