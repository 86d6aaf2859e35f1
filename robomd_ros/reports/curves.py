# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The benchmark of searchers: curves for a talk and a table for a terminal."""

from collections.abc import Sequence
import io
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from robomd_ros.diagnosis.run import SEARCHERS
from robomd_ros.diagnosis.search_benchmark import Benchmark
from robomd_ros.diagnosis.search_summary import Band, Standing, Summary, TARGET
from robomd_ros.reports.figures import LIGHT
from robomd_ros.reports.table import WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which differ for colour-blind eyes; their yellow does not on white.
_COLORS = {'sweep': '#000000', 'random': '#8a8f98', 'ppo': '#d55e00', 'a2c': '#e69f00',
           'thompson': '#56b4e9', 'successive_halving': '#cc79a7', 'gp': '#009e73'}
_OTHER = '#0072b2'
_HEADER = ['searcher', 'to target', 'of sweep’s', 'accuracy', 'modes', 'false', 'own time']


def curves_png(asked: Benchmark, summary: Summary) -> bytes:
    """
    Draw the curves as a PNG picture.

    Left: pair accuracy after so many rollouts, on a scale that is linear to 20 and logarithmic
    from there; right: failure modes found. Both are means over the seeds with 95% intervals.
    Dashed: the accuracy of the search mass of those that learn. Dotted: the ceiling, and the share
    of it that is to be reached.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 9), dpi=100, facecolor='white')
    left = figure.add_axes((0.06, 0.33, 0.5, 0.5))
    right = figure.add_axes((0.65, 0.33, 0.3, 0.5))
    _prepare(left, right, asked, summary)
    for standing in summary.standings:
        color = _COLORS.get(standing.searcher, _OTHER)
        width = 3.6 if standing.searcher == 'sweep' else 2.6
        _draw(left, standing.accuracy, color, width, label=_label(standing, asked))
        _draw(right, standing.modes, color, width)
        if standing.by_mass is not None and SEARCHERS[standing.searcher].learns:
            left.plot(standing.by_mass.mean, color=color, linewidth=1.8, linestyle=(0, (4, 2)),
                      label=f'{standing.searcher}, by its search mass: '
                      f'{_number(standing.median_by_mass, asked)}')
    figure.legend(
        *left.get_legend_handles_labels(), loc='lower center', bbox_to_anchor=(0.5, 0.05), ncols=3,
        frameon=False, fontsize=15, title_fontsize=15,
        title='after how many rollouts the target is reached for good (median over the seeds)')
    figure.text(0.5, 0.02, summary.how, ha='center', color=LIGHT.muted, fontsize=12)
    figure.text(0.06, 0.93, _title(asked), fontsize=20,
                weight='bold', color=LIGHT.ink, parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format='png')
    return picture.getvalue()


def _title(asked: Benchmark) -> str:
    seeds = f'{asked.seeds} seed' + 's' * (asked.seeds > 1)
    return (f'Searchers on {asked.task}, policy {asked.policy}: {seeds}, {asked.rollouts} '
            f'rollouts each{", replayed" * asked.replayed}')


def _label(standing: Standing, asked: Benchmark) -> str:
    return f'{standing.searcher}: {_number(standing.median, asked)}'


def _draw(axes: 'Axes', band: Band, color: str, width: float, label: str | None = None) -> None:
    rollouts = np.arange(len(band.mean))
    axes.plot(rollouts, band.mean, color=color, linewidth=width, label=label)
    if band.low is not None and band.high is not None:
        axes.fill_between(rollouts, band.low, band.high, color=color, alpha=0.12, linewidth=0)


def _prepare(left: 'Axes', right: 'Axes', asked: Benchmark, summary: Summary) -> None:
    """Draw scales and goals."""
    modes = len(summary.modes)
    spread = summary.ceiling - 0.5  # from chance
    left.set_ylim(0.5 + 0.4 * spread, summary.ceiling + 0.05 * spread)
    right.set_ylim(0, modes * 1.1 + 0.5)
    left.set_xscale('symlog', linthresh=20, linscale=0.7)
    ticks = [tick for tick in (0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
             if tick < 0.8 * asked.rollouts]
    left.set_xticks([*ticks, asked.rollouts], [str(tick) for tick in (*ticks, asked.rollouts)])
    left.minorticks_off()
    for axes, name in ((left, 'pair accuracy'), (right, 'failure modes found')):
        axes.set_xlim(0, asked.rollouts)
        axes.set_xlabel('rollouts, control rollouts included', fontsize=15, color=LIGHT.ink)
        axes.set_title(name, loc='left', fontsize=17, color=LIGHT.ink)
        axes.tick_params(labelsize=14, colors=LIGHT.muted, length=0)
        axes.grid(color=LIGHT.line, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    _goal(left, summary.ceiling, 'ceiling')
    _goal(left, summary.target, f'{TARGET:.0%} of it')
    _goal(right, modes, f'all {modes}')


def _goal(axes: 'Axes', height: float, name: str) -> None:
    axes.axhline(height, color=LIGHT.ink, linewidth=1.6, linestyle=':')
    axes.annotate(name, (1, height), xycoords=axes.get_yaxis_transform(), xytext=(6, 0),
                  textcoords='offset points', va='center', fontsize=13, color=LIGHT.ink)


def benchmark_table(asked: Benchmark, summary: Summary) -> str:
    """Return the benchmark for a terminal, at most 96 columns."""
    order = sorted(summary.standings, key=lambda each: (
        np.inf if each.median is None else each.median))
    rows = [_cells(each, asked) for each in order]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    rule = '─' * (sum(widths) + 2 * (len(widths) - 1))

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return '  '.join([first[0].ljust(first[1]), *(
            cell.rjust(width) for cell, width in others)]).rstrip()

    notes = [
        summary.how,
        f'To target: rollouts until the pair accuracy is {TARGET:.0%} of the ceiling '
        f'{summary.ceiling:.3f} for good, median over the seeds and its 95% interval. Accuracy: '
        'pair accuracy at the end of the budget, mean over the seeds. Modes: failure modes found '
        f'by then, of {len(summary.modes)}; false: found, but none. Own time: median time a run '
        'takes without its rollouts.']
    if summary.prior is not None:
        notes.append(
            f'Suspicion alone, before any perturbed rollout: pair accuracy '
            f'{summary.prior.accuracy:.3f}, {summary.prior.share:.0%} of the way from chance to '
            f'the ceiling; its {summary.prior.rollouts} nominal rollouts are in no budget.')
    return '\n'.join([f'{_title(asked)}.', '', line(_HEADER), rule, *map(line, rows), rule,
                      *(text for note in notes for text in textwrap.wrap(note, WIDTH))])


def _cells(standing: Standing, asked: Benchmark) -> list[str]:
    reached = _number(standing.median, asked)
    if standing.interval is not None:
        reached += f' ({_ends(standing.interval, asked)})'
    ratio = '–' if standing.ratio is None else f'{standing.ratio:.2f}'
    if standing.ratio_interval is not None and standing.searcher != 'sweep':
        low, high = ('∞' if end is None else f'{end:.2f}' for end in standing.ratio_interval)
        ratio += f' ({low}–{high})'
    return [standing.searcher, reached, ratio, f'{standing.accuracy.mean[-1]:.3f}',
            f'{standing.modes.mean[-1]:.1f}',
            f'{standing.false.mean[-1]:.1f}', f'{standing.seconds:.1f} s']


def _ends(interval: tuple[float | None, float | None], asked: Benchmark) -> str:
    low, high = (_number(end, asked) for end in interval)
    return f'{low}–{high}'


def _number(rollouts: float | None, asked: Benchmark) -> str:
    return f'>{asked.rollouts}' if rollouts is None else f'{rollouts:g}'
