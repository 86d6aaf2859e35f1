# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Two diagnoses compared: a table for a terminal and the overlay plot of the paper's Fig. 7."""

from collections.abc import Mapping, Sequence
import io
import textwrap
from typing import Any, TYPE_CHECKING

import numpy as np
from robomd_ros.diagnosis.comparison import Change, Comparison
from robomd_ros.diagnosis.failure_map import Rate
from robomd_ros.reports.figures import LIGHT
from robomd_ros.reports.table import count, percent, WIDTH

if TYPE_CHECKING:
    from matplotlib.projections.polar import PolarAxes

NAME = 26    # columns of a name at most
POLICY = 60  # and of a policy
_HEADER = ['change of the scene', 'A', 'B', 'B – A', '95% interval', 'trials', 'p (Holm)',
           'verdict on B']


def comparison_table(comparison: Comparison) -> str:
    """Return the comparison for a terminal, at most 96 columns: in one sentence, then in rows."""
    rows = [_cells(change) for change in comparison.changes]
    nominal = _cells(comparison.nominal)
    widths = [max(map(len, column)) for column in zip(_HEADER, nominal, *rows, strict=True)]
    rule = '─' * (sum(widths) + 2 * (len(widths) - 1))

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return '  '.join([first[0].ljust(first[1]), *(
            cell.rjust(width) for cell, width in others)]).rstrip()

    a, b = comparison.a, comparison.b
    title = [f'A: policy {_name(a)}, searcher {a["searcher"]}.',
             f'B: policy {_name(b)}, searcher {b["searcher"]}.', '', f'{sentence(comparison)}.']
    notes = ('A, B: failed rollouts, on the trials that both have and that were planned without '
             'looking at outcomes. Verdict: exact McNemar test on these pairs, Holm over the '
             'catalogue, at 5%; nominal is tested alone. Interval: Newcombe.')
    return '\n'.join([*(text for part in title for text in textwrap.wrap(part, WIDTH) or ['']), '',
                      line(_HEADER), rule, line(nominal), rule, *map(line, rows), rule,
                      *textwrap.wrap(notes, WIDTH)])


def sentence(comparison: Comparison) -> str:
    """Return what there is to remember, without a full stop."""
    overall = comparison.overall
    low, high = overall.interval
    how = 'more' if overall.change > 0 else 'less'
    verdicts = [change.verdict for change in comparison.changes]
    if overall.change:
        what = f'B fails {100 * abs(overall.change):.1f} points {how} often than A'
    else:
        what = 'B fails as often as A'
    return (f'{what}, {100 * overall.b:.1f}% against {100 * overall.a:.1f}% on average over '
            f'{count(overall.perturbations, "perturbation")} (95% interval of the change '
            f'{100 * low:+.1f} to {100 * high:+.1f} points, {count(overall.pairs, "pair")} of '
            f'rollouts); {verdicts.count("worse")} worse, {verdicts.count("better")} better')


def _name(settings: Mapping[str, Any]) -> str:
    policy = settings['policy']
    short = policy if len(policy) <= POLICY else f'…{policy[1 - POLICY:]}'
    return f'{short} ({settings["policy_digest"][:8]})'


def _cells(change: Change) -> list[str]:
    name = change.name if len(change.name) <= NAME else f'{change.name[:NAME - 1]}…'
    paired = change.paired
    if paired.difference is None:
        return [name, '–', '–', '–', '–', '0', '–', 'no common trial']
    low, high = paired.interval
    return [name, percent(change.a.failure_rate), percent(change.b.failure_rate),
            f'{100 * paired.difference:+.0f}', f'{100 * low:+.0f} to {100 * high:+.0f}',
            f'{paired.pairs:,}', f'{paired.p_holm:.3f}' if paired.p_holm >= 0.001 else '<0.001',
            change.verdict]


def overlay_png(comparison: Comparison) -> bytes:
    """
    Draw the overlay plot of the paper's Fig. 7 as a PNG picture.

    One axis a perturbation, ordered by slot: both failure rates on the trials that both diagnoses
    have, from 0 in the centre, which is the paper's ideal, to 100% at the rim, with their 95%
    Wilson intervals as ribbons. A star marks what is shown to be worse or better.
    """
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

    changes = sorted(comparison.changes, key=lambda change: (change.slot, change.name))
    figure = Figure(figsize=(9, 8), dpi=130, facecolor='white')
    axes = PolarAxes(figure, (0.2, 0.16, 0.6, 0.66))
    figure.add_axes(axes)
    _prepare(axes, changes)
    _draw(axes, [change.a for change in changes], LIGHT.nominal, f'A: {_name(comparison.a)}')
    _draw(axes, [change.b for change in changes], LIGHT.failure, f'B: {_name(comparison.b)}')
    figure.legend(loc='lower center', ncols=1, frameon=False, fontsize=10,
                  bbox_to_anchor=(0.5, 0.03))
    figure.text(0.5, 0.02, 'centre: never fails; rim: always; ribbon: 95% interval; *: shown to '
                'be worse or better', color=LIGHT.muted, fontsize=9, ha='center')
    figure.suptitle('\n'.join(textwrap.wrap(f'{sentence(comparison)}.', 105)), fontsize=10.5,
                    color=LIGHT.ink, y=0.97, parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format='png')
    return picture.getvalue()


def _angles(number: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, number, endpoint=False)


def _prepare(axes: 'PolarAxes', changes: Sequence[Change]) -> None:
    axes.set_theta_zero_location('N')
    axes.set_theta_direction(-1)
    axes.set_ylim(0, 1)
    axes.set_xticks(_angles(len(changes)), [''] * len(changes))
    axes.set_yticks([0.25, 0.5, 0.75], ['25%', '50%', '75%'], color=LIGHT.muted, fontsize=8)
    axes.set_rlabel_position(180 / len(changes))
    axes.grid(color=LIGHT.line, linewidth=0.8)
    axes.spines['polar'].set_color(LIGHT.line)
    for angle, change in zip(_angles(len(changes)), changes, strict=True):
        side = np.sin(angle)
        mark = ' *' * (change.verdict != 'not shown')
        label = f'{change.name}{mark}' if change.a.n else f'{change.name}\nno common trial'
        axes.text(angle, 1.06, label, fontsize=9, parse_math=False,
                  color=LIGHT.ink if change.a.n else LIGHT.muted,
                  ha='center' if abs(side) < 0.1 else 'left' if side > 0 else 'right',
                  va='center' if abs(side) > 0.3 else 'bottom' if np.cos(angle) > 0 else 'top')


def _draw(axes: 'PolarAxes', rates: Sequence[Rate], color: str, label: str) -> None:
    """Draw the rates as a closed line, with gaps where there is none, and their intervals."""
    closed = [*rates, rates[0]]
    angles = np.append(_angles(len(rates)), 2 * np.pi)
    values = np.array([np.nan if rate.failure_rate is None else rate.failure_rate
                       for rate in closed])
    low, high = np.array([rate.interval for rate in closed]).T
    known = ~np.isnan(values)
    axes.plot(angles, values, 'o-' if len(rates) > 2 else 'o', color=color, linewidth=2,
              markersize=4.5, label=label.replace('$', r'\$'), clip_on=False)
    if len(rates) > 2:
        axes.fill_between(angles, low, high, where=known, color=color, alpha=0.18, linewidth=0)
    else:  # two axes enclose nothing
        axes.vlines(angles[known], low[known], high[known], color=color, alpha=0.4, linewidth=6)
