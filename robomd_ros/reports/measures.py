# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's measures of a diagnosis as a table for a terminal."""

from collections.abc import Sequence
import textwrap

from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.measuring import Measure
from robomd_ros.reports.table import spent, WIDTH

_WIDTHS = {'measure': 21, 'value': 10, '95% interval': 9, 'over': 16,
           'IN THE PAPER, for policies of its own': 32}
_UNITS = ('bits', 'nats')


def measures_table(failure_map: FailureMap, measures: Sequence[Measure]) -> str:
    """Return the measures for a terminal, at most 96 columns, and below what each is of."""
    settings = failure_map.settings
    title = (f'{settings["task"]}, policy {settings["policy"]}, searcher {settings["searcher"]}, '
             f'seed {settings["seed"]}: {spent(failure_map)}.')
    rule = '─' * WIDTH
    lines = [*textwrap.wrap(title, WIDTH), '', *_lines(list(_WIDTHS)), rule]
    before = ''
    for measure in measures:
        family, _, of = measure.name.partition('.')
        if of and family != before:
            lines.append(family)
        before = family
        lines += _lines([f'  {of}' if of else family, *_cells(measure)])
    notes = [line for measure in measures for line in textwrap.wrap(
        f'{measure.name} ({measure.unit}): {measure.note}.', WIDTH, subsequent_indent='  ')]
    return '\n'.join([*lines, rule, *notes])


def _number(value: float | None) -> str:
    if value is None:
        return '–'
    if isinstance(value, int):
        return f'{value:,}'
    return f'{value:.4f}' if value < 0.1 else f'{value:.3f}'


def _cells(measure: Measure) -> list[str]:
    interval = '–'
    if measure.interval is not None:
        low, high = measure.interval
        interval = f'{low:.2f}–{high:.2f}'
    over = f'{measure.n:,} {measure.counted}'
    if measure.abstained:
        over += f', {measure.abstained:,} abstained'
    value = _number(measure.value)
    if measure.unit in _UNITS and measure.value is not None:
        value += f' {measure.unit}'
    paper = '\n'.join(f'{each.value:g} {each.of}' for each in measure.paper)
    return [value, interval, over, paper]


def _lines(cells: Sequence[str]) -> list[str]:
    """Wrap each cell in its column and return the lines of the row."""
    widths = list(_WIDTHS.values())
    wrapped = [[line for text in cell.split('\n')
                for line in textwrap.wrap(text, width) or ['']]
               for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    columns = [[*column, *[''] * (height - len(column))] for column in wrapped]
    return ['  '.join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
            for line in zip(*columns, strict=True)]
