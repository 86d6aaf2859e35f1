# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The failure map in pictures: ranked bars for a ROS topic, and the paper's radar plot (Fig. 5).

Matplotlib's figures are used without pyplot, whose state is global, so any thread may draw.
"""

from dataclasses import dataclass
import io
from typing import Any, TYPE_CHECKING

import numpy as np
from robomd_ros.diagnosis.failure_map import FailureMap, MapRow
from robomd_ros.reports.table import (
    confirmed,
    interval,
    no_rate,
    percent,
    percents,
    standing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

DPI = 100
ROW = 22  # px, the least height of a bar's row that can be read


@dataclass(frozen=True)
class Palette:
    """
    The colours of a figure; failure and nominal differ for colour-blind eyes as well.

    paper: what the figure lies on.
    """

    paper: str
    ink: str
    muted: str
    line: str
    failure: str
    nominal: str
    mass: str


LIGHT = Palette('#ffffff', '#1b1f24', '#646b75', '#d9dce1', '#c2452d', '#2b6a99', '#7a4fb0')
DARK = Palette('#1a1d22', '#e7e9ec', '#9aa2ad', '#3a404a', '#f2806a', '#6fb2e3', '#b795e8')


def map_image(failure_map: FailureMap, width: int = 960, height: int = 720) -> np.ndarray:
    """
    Draw the ranked failure map as (height, width, 3) uint8 RGB.

    One bar a perturbation, by rank: its failure rate, the 95% interval as a whisker, rate and n
    beside it. Its colour is the verdict; it is filled if the rate is final, and hollow if it is of
    discovery or the diagnosis has not ended. The vertical band is nominal's interval. Rows that
    do not fit are left out, and the last line says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((210 / width, 64 / height, 1 - 320 / width, 1 - 150 / height))
    shown = failure_map.perturbations[:max(1, (height - 150) // ROW)]
    _draw_nominal_band(axes, failure_map)
    _draw_bars(axes, failure_map, shown)
    _draw_scale(axes, len(shown))
    _draw_titles(figure, failure_map, len(shown))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _color(failure_map: FailureMap, row: MapRow, palette: Palette) -> str:
    """Return the colour of the perturbation's verdict."""
    return {'failure mode': palette.failure, 'suspected': palette.failure,
            'better than nominal': palette.nominal}.get(standing(failure_map, row), palette.muted)


def _draw_nominal_band(axes: 'Axes', failure_map: FailureMap) -> None:
    nominal = failure_map.nominal
    if nominal.failure_rate is None:
        return
    axes.axvspan(*interval(failure_map, nominal), color=LIGHT.nominal, alpha=0.16, linewidth=0)
    axes.axvline(nominal.failure_rate, color=LIGHT.nominal, linewidth=1.5)


def _draw_bars(axes: 'Axes', failure_map: FailureMap, rows: tuple[MapRow, ...]) -> None:
    from matplotlib.colors import to_rgba

    for place, row in enumerate(rows):
        beside: dict[str, Any] = {
            'va': 'center', 'fontsize': 9, 'transform': axes.get_yaxis_transform()}
        color = LIGHT.ink if row.n else LIGHT.muted
        axes.text(-0.015, place, row.name, ha='right', color=color, parse_math=False, **beside)
        if row.failure_rate is None:
            axes.axhspan(place - 0.33, place + 0.33, color='#eeeff1', linewidth=0)
            axes.text(0.012, place, no_rate(row), color=LIGHT.muted, **beside)
            continue
        low, high = interval(failure_map, row)
        verdict = _color(failure_map, row, LIGHT)
        fill = to_rgba(verdict, 0.75) if confirmed(failure_map, row) else 'none'
        axes.barh(place, row.failure_rate, height=0.6, color=fill, edgecolor=verdict,
                  linewidth=1.2)
        axes.plot([low, high], [place, place], color=LIGHT.ink, linewidth=1.4, marker='|',
                  markersize=6)
        axes.text(1.015, place, f'{percent(row.failure_rate)} of {row.n:,}', color=color, **beside)


def _draw_scale(axes: 'Axes', shown: int) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(max(shown, 1) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xticks(np.linspace(0, 1, 6), [f'{tick:.0%}' for tick in np.linspace(0, 1, 6)])
    axes.tick_params(colors=LIGHT.muted, labelsize=9, length=0)
    axes.grid(axis='x', color=LIGHT.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _draw_titles(figure: 'Figure', failure_map: FailureMap, shown: int) -> None:
    settings, budget, nominal = failure_map.settings, failure_map.budget, failure_map.nominal
    width, height = figure.bbox.size

    def write(down: float, text: str, color: str, size: float, weight: str = 'normal') -> None:
        figure.text(14 / width, 1 - down / height, text, color=color, fontsize=size, va='top',
                    weight=weight, parse_math=False)

    write(12, f'Failure map: {settings["task"]}, policy {settings["policy"]}', LIGHT.ink, 12,
          'bold')
    write(34, f'searcher {settings["searcher"]}, {budget["done"]:,} of {budget["asked"]:,} '
          f'rollouts, {budget["invalid"]:,} invalid', LIGHT.muted, 10)
    band = 'no valid rollout yet'
    if nominal.n:
        band = (f'{percent(nominal.failure_rate)} of {nominal.n:,}, '
                f'95% interval {percents(interval(failure_map, nominal))}')
    write(54, f'band: nominal scene, {band}', LIGHT.nominal, 10)
    kind = 'Wilson, of discovery anytime-valid' if failure_map.stopped else 'anytime-valid'
    note = f'failure rate of each change alone, 95% interval ({kind})'
    if hidden := len(failure_map.perturbations) - shown:
        note += f'; {hidden:,} more, lower in rank, are not drawn'
    write(height - 36, note, LIGHT.muted, 9)
    hollow = 'of discovery, not confirmed' if failure_map.stopped else 'not final'
    write(height - 20, 'red: failure mode, suspected if hollow; blue: better than nominal; grey: '
          f'not shown; hollow: {hollow}', LIGHT.muted, 9)


def radar_svg(failure_map: FailureMap, palette: Palette = LIGHT) -> bytes:
    """
    Draw the radar plot of the paper's Fig. 5 as an SVG picture without background.

    One axis a perturbation, ordered by slot so that two maps of one catalogue can be compared: the
    failure rate as a line, its 95% intervals as a ribbon, nominal's rate as a circle with a band,
    and, if the searcher has one, its search mass as a thin line, scaled so that the largest
    touches the rim. Failure modes are dots, large and filled; what is suspected, large and hollow.
    """
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

    rows = sorted(failure_map.perturbations, key=lambda row: (row.slot, row.name))
    figure = Figure(figsize=(7, 6))
    axes = PolarAxes(figure, (0.2, 0.18, 0.6, 0.7))
    figure.add_axes(axes)
    _prepare_radar(axes, rows, palette)
    _draw_rates(axes, failure_map, rows, palette)
    _draw_dots(axes, failure_map, rows, palette)
    _draw_nominal_circle(axes, failure_map, palette)
    _draw_mass(axes, rows, palette)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc='upper center', bbox_to_anchor=(0.5, 0.09), ncols=2, frameon=False,
                      fontsize=9.5, labelcolor=palette.ink)
    picture = io.BytesIO()
    figure.savefig(picture, format='svg', transparent=True, bbox_inches='tight',
                   metadata={'Date': None})
    return picture.getvalue()


def _angles(rows: list[MapRow]) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, len(rows), endpoint=False)


def _closed(values: list[float] | np.ndarray) -> np.ndarray:
    """Repeat the first value at the end, so that a line through them closes."""
    return np.append(values, values[:1]).astype(float)


def _prepare_radar(axes: 'PolarAxes', rows: list[MapRow], palette: Palette) -> None:
    axes.set_theta_zero_location('N')
    axes.set_theta_direction(-1)
    axes.set_ylim(0, 1)
    axes.set_xticks(_angles(rows), [''] * len(rows))
    axes.set_yticks([0.25, 0.5, 0.75], ['25%', '50%', '75%'], color=palette.muted, fontsize=8)
    axes.set_rlabel_position(180 / max(len(rows), 1))
    axes.grid(color=palette.line, linewidth=0.8)
    axes.spines['polar'].set_color(palette.line)
    for angle, row in zip(_angles(rows), rows, strict=True):
        side = np.sin(angle)
        label = f'{percent(row.failure_rate)} of {row.n:,}' if row.n else no_rate(row)
        axes.text(angle, 1.07, f'{row.name}\n{label}', fontsize=9.5, linespacing=1.25,
                  color=palette.ink if row.source == 'confirmation' else palette.muted,
                  parse_math=False,
                  ha='center' if abs(side) < 0.1 else 'left' if side > 0 else 'right',
                  va='center' if abs(side) > 0.3 else 'bottom' if np.cos(angle) > 0 else 'top')


def _rates(rows: list[MapRow]) -> np.ndarray:
    """Return the failure rates, nan where there is none."""
    return np.array([np.nan if row.failure_rate is None else row.failure_rate for row in rows])


def _draw_rates(axes: 'PolarAxes', failure_map: FailureMap, rows: list[MapRow],
                palette: Palette) -> None:
    angles, rates = _angles(rows), _rates(rows)
    low, high = np.array([interval(failure_map, row) for row in rows]).reshape(-1, 2).T
    known = ~np.isnan(rates)
    if not known.any():
        return
    # Two axes enclose nothing: points and whiskers instead.
    line = 'o-' if len(rows) > 2 else 'o'
    axes.plot(_closed(angles), _closed(rates), line, color=palette.failure, linewidth=1.6,
              markersize=2.5, label='failure rate, rim = 100%', clip_on=False)
    if len(rows) < 3:
        axes.vlines(angles[known], low[known], high[known], color=palette.failure, alpha=0.4,
                    linewidth=6, label='its 95% interval')
        return
    axes.fill_between(_closed(angles), _closed(low), _closed(high), where=_closed(known) > 0,
                      color=palette.failure, alpha=0.22, linewidth=0, label='its 95% interval')


def _draw_dots(axes: 'PolarAxes', failure_map: FailureMap, rows: list[MapRow],
               palette: Palette) -> None:
    fills = {'failure mode': palette.failure, 'suspected': palette.paper}
    for which, fill in fills.items():
        there = np.array([standing(failure_map, row) == which for row in rows], bool)
        if there.any():
            axes.plot(_angles(rows)[there], _rates(rows)[there], 'o', color=palette.failure,
                      markerfacecolor=fill, markersize=8, markeredgewidth=1.8, clip_on=False,
                      zorder=4, label=which)


def _draw_nominal_circle(axes: 'PolarAxes', failure_map: FailureMap, palette: Palette) -> None:
    nominal = failure_map.nominal
    if nominal.failure_rate is None:
        return
    around = np.linspace(0, 2 * np.pi, 181)
    axes.fill_between(around, *interval(failure_map, nominal), color=palette.nominal, alpha=0.14,
                      linewidth=0)
    axes.plot(around, np.full_like(around, nominal.failure_rate), color=palette.nominal,
              linewidth=1.8, label=f'nominal scene, {percent(nominal.failure_rate)}')


def _draw_mass(axes: 'PolarAxes', rows: list[MapRow], palette: Palette) -> None:
    mass = np.array([row.search_mass or 0.0 for row in rows])
    if len(rows) < 3 or not mass.any():
        return
    axes.plot(_closed(_angles(rows)), _closed(mass / mass.max()), color=palette.mass,
              linewidth=1.1, linestyle=(0, (4, 2)),
              label=f'search mass, rim = {mass.max():.3f}; not a failure rate')
