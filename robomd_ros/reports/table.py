# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The failure map in a terminal: a headline, a table, and how numbers are written."""

import textwrap

from robomd_ros.diagnosis.failure_map import ConditionRow, FailureMap, MapRow
from robomd_ros.diagnosis.statistics import hundredths, MARGIN

WIDTH = 96   # columns of the table at most
NAME = 28    # of a name
BAR = 24     # of a bar
LEAST = 10   # of a bar that says something
MARKS = {'failure mode': '●', 'suspected': '○', 'better than nominal': '▽'}
MEANINGS = {
    'failure mode': f'failure mode: failed at least {100 * MARGIN:.0f} points more often than the '
                    'nominal scene on the same trials, not by chance (p < 0.05, Holm over the '
                    'catalogue).',
    'suspected': "suspected, not confirmed: the interval lies above nominal's, but of rollouts "
                 'that were not planned beforehand or are too few for the test.',
    'better than nominal': 'better than nominal: failed less often than the nominal scene on the '
                           'same trials, not by chance (p < 0.05, Holm over the catalogue).',
}
_COLUMNS = {
    'suspicion': "Suspicion: how far the policy's actions move when it is shown the change; "
                 'measured without a rollout of it, and no failure rate.',
    'estimate': "Estimate: the failure rate that the searcher's model expects; not measured.",
    'mass': 'Mass: what the searcher prefers, as a share of 1; not a failure rate.',
}
_NAMES = 2  # the column of the names


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
    low, high = hundredths(interval)
    return f'{low}–{high}%'


def no_rate(row: MapRow | ConditionRow) -> str:
    """Say why there is no rate: ``not tried``, ``3 invalid``."""
    return f'{row.invalid:,} invalid' if row.invalid else 'not tried'


def count(number: int, thing: str) -> str:
    """Write a number of things: ``1 rollout``, ``2 rollouts``."""
    return f'{number:,} {thing}' + ('' if number == 1 else 's')


def tried(failure_map: FailureMap) -> list[MapRow]:
    """Return the perturbations with a valid rollout, by rank."""
    return [row for row in failure_map.perturbations if row.n]


def interval(failure_map: FailureMap, row: MapRow | ConditionRow) -> tuple[float, float]:
    """Return the interval to show: until the diagnosis has ended, the anytime-valid one."""
    return row.interval if failure_map.stopped else row.anytime


def confirmed(failure_map: FailureMap, row: MapRow | ConditionRow) -> bool:
    """Return whether the row's rate is final: planned beforehand, and all of it done."""
    return bool(failure_map.stopped) and row.source == 'confirmation'


def standing(failure_map: FailureMap, row: MapRow) -> str:
    """
    Return what may be said of a perturbation: its verdict, or 'suspected'.

    Verdicts are of tests made once, so they hold when the diagnosis has ended. Until then,
    without confirmation, and with too little of it, a perturbation is suspected if the anytime-
    valid interval of its failure rate lies above nominal's interval, and else nothing is shown.
    """
    if confirmed(failure_map, row) and row.verdict != 'not shown':
        return row.verdict
    nominal = failure_map.nominal
    if row.n and nominal.n and row.anytime[0] > interval(failure_map, nominal)[1]:
        return 'suspected'
    return 'not shown'


def standings(failure_map: FailureMap, which: str) -> list[MapRow]:
    """Return the perturbations that stand so, by rank."""
    return [row for row in failure_map.perturbations if standing(failure_map, row) == which]


def headline(failure_map: FailureMap) -> str:
    """Return the one sentence to remember, without a full stop."""
    rows = tried(failure_map)
    if not rows:
        return 'No perturbation has a valid rollout yet'
    of = count(len(rows), 'perturbation')
    if len(rows) < len(failure_map.perturbations):
        of = f'the {of} tried'
    modes, suspected = (
        len(standings(failure_map, which)) for which in ('failure mode', 'suspected'))
    so_far = '' if failure_map.stopped else ' so far'
    sets = sum(found.shown for found in failure_map.minimal_sets)
    fail = 'fails' if sets == 1 else 'fail'
    also = f'; {count(sets, "combination")} of them {fail}' if sets else ''
    if modes:
        more = f', {suspected} more {_is(suspected)} suspected' if suspected else ''
        a_mode = 'a failure mode' if modes == 1 else 'failure modes'
        return f'{modes} of {of} {_is(modes)} {a_mode}{more}{also}'
    if suspected:
        return f'{suspected} of {of} {_is(suspected)} suspected{so_far}, none is confirmed{also}'
    return f'No failure mode is shown among {of}{so_far}{also}'


def _is(number: int) -> str:
    return 'is' if number == 1 else 'are'


def spent(failure_map: FailureMap) -> str:
    """Return how much of the budget is spent, and what was invalid, for people."""
    budget = failure_map.budget
    text = f'{budget["done"]:,} of {count(budget["asked"], "rollout")}'
    if budget['invalid']:
        text += f', {budget["invalid"]:,} of them invalid and not counted'
    reasons = ', '.join(f'{reason} {number:,}'
                        for reason, number in failure_map.invalid_reasons.items())
    return f'{text} ({reasons})' if reasons else text


def why_stopped(failure_map: FailureMap) -> str:
    """Return why the diagnosis has ended, or that it has not; one sentence."""
    return failure_map.stopped or ('The diagnosis has not ended: it is running, or was '
                                   'interrupted and goes on with the same command.')


def map_table(failure_map: FailureMap) -> str:
    """Return the ranked failure map for a terminal, at most WIDTH columns, nominal first."""
    rows = [failure_map.nominal, *failure_map.perturbations]
    columns = _columns(failure_map)
    cells = [columns, *(_cells(failure_map, row, columns) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    others = sum(widths) - widths[_NAMES] + 2 * (len(widths) - 1)
    widths[_NAMES] = min(widths[_NAMES], NAME, max(WIDTH - others, 8))
    bar = min(BAR, WIDTH - sum(widths) - 2 * len(widths))
    if bar < LEAST:
        bar = 0
    bars = [f'0%{"100%":>{bar - 2}}' if bar else '',
            *(_bar(failure_map, row, bar) for row in rows)]
    table = ['  '.join([*map(_aligned, line, widths, range(len(line))), drawn]).rstrip()
             for line, drawn in zip(cells, bars, strict=True)]
    width = sum(widths) + 2 * (len(widths) - (not bar)) + bar
    rule = '─' * width
    return '\n'.join([*_paragraphs(_title(failure_map)), '',
                      table[0], rule, table[1], rule, *table[2:], rule,
                      *_paragraphs(_legend(failure_map, columns, bar))])


def _title(failure_map: FailureMap) -> list[str]:
    settings = failure_map.settings
    return [
        f'{headline(failure_map)}.',
        f'{settings["task"]}, policy {settings["policy"]}, searcher {settings["searcher"]}, '
        f'seed {settings["seed"]}: {spent(failure_map)}.',
        why_stopped(failure_map),
    ]


def _legend(failure_map: FailureMap, columns: list[str], bar: int) -> list[str]:
    """Explain the marks and columns that the table has."""
    found = {standing(failure_map, row) for row in failure_map.perturbations}
    lines = [f'{mark} {MEANINGS[which]}' for which, mark in MARKS.items() if which in found]
    lines.append('No mark: not shown, which is not the same as safe; the upper end of the '
                 'interval says how often it may fail.')
    lines.append('Failed: failures / valid rollouts of that change alone, planned beforehand. '
                 'Rank: by the lower end of the interval.')
    if 'discovery' in columns:
        lines.append('Discovery: the same of rollouts that the searcher chose, which favours what '
                     'happened to fail: a hint, never pooled. In parentheses: its interval.')
    if not failure_map.stopped:
        lines.append('Anytime: 95% interval that holds whenever one looks, and is wider for it. '
                     'Verdicts come when the diagnosis has ended.')
    else:
        lines.append('Interval: 95%, Wilson' + '; in parentheses anytime-valid, that is, right '
                     'whenever one looks' * ('discovery' in columns) + '.')
    if bar:
        lines.append('Bar: █ to the lower end of the interval, ▓ to the rate, ░ to the upper end'
                     + '; of discovery only ░' * ('discovery' in columns) + '.')
    return [*lines, *(text for name, text in _COLUMNS.items() if name in columns)]


def _paragraphs(texts: list[str]) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, WIDTH)]


def _columns(failure_map: FailureMap) -> list[str]:
    """Return the headings; what nobody measured has no column."""
    rows = failure_map.perturbations
    optional = {'discovery': 'discovery', 'estimate': 'estimate', 'mass': 'search_mass'}
    return ['rank', '', 'perturbation',
            *['suspicion'] * any(row.suspicion is not None for row in rows),
            'failed', 'rate', 'interval' if failure_map.stopped else 'anytime',
            *(name for name, field in optional.items()
              if any(getattr(row, field) is not None for row in rows))]


def _cells(failure_map: FailureMap, row: MapRow, columns: list[str]) -> list[str]:
    planned = row.source == 'confirmation'
    found, ends = row.discovery, percents(interval(failure_map, row))
    cells = {
        'rank': str(row.rank or ''),
        '': MARKS.get(standing(failure_map, row), '') if row is not failure_map.nominal else '',
        'perturbation': row.name,
        'suspicion': '' if row.suspicion is None else f'{row.suspicion:.3f}',
        'failed': f'{row.failures:,} / {row.n:,}' if planned else '–' if row.n else no_rate(row),
        'rate': percent(row.failure_rate) if planned else '–',
        'interval': ends if planned else f'({ends})' if row.n else '–',
        'discovery': f'{found.failures:,} / {found.n:,}' if found else '',
        'estimate': '' if row.estimate is None else percent(row.estimate),
        'mass': '' if row.search_mass is None else f'{row.search_mass:.3f}',
    }
    return [cells['interval' if name == 'anytime' else name] for name in columns]


def _aligned(cell: str, width: int, column: int) -> str:
    if column != _NAMES:
        return cell.rjust(width)
    return (cell if len(cell) <= width else f'{cell[:width - 1]}…').ljust(width)


def _bar(failure_map: FailureMap, row: MapRow, width: int) -> str:
    """Draw the interval and the rate in it; of discovery only the interval."""
    if row.failure_rate is None:
        return ''
    ends = interval(failure_map, row)
    low, rate, high = (round(width * share) for share in (ends[0], row.failure_rate, ends[1]))
    if row.source == 'discovery':
        return ' ' * low + '░' * (high - low)
    return '█' * low + '▓' * (rate - low) + '░' * (high - rate)
