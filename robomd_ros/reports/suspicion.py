# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Suspicion in a terminal and as a figure."""

import io
import math
import textwrap

from robomd_ros.conditions import Catalogue, Perturbation
from robomd_ros.diagnosis.suspicion import Suspicion
from robomd_ros.reports.figures import LIGHT
from robomd_ros.reports.table import BAR, count, NAME, WIDTH

CONTACT = ('size', 'friction', 'mass')  # what the policy need not see, and the gripper will meet
COLORS = {  # of the kinds of change; told apart by colour-blind eyes as well
    'colour': '#2b6a99', 'texture': '#7a4fb0', 'light': '#d9a21b', 'camera': '#3a8f6b',
    'size': '#c2452d', 'friction': '#8c5a3c', 'mass': '#5f6670'}
_WARNING = ('It sees what the policy sees: changes of size, friction and mass can move the '
            'actions little and still fail.')
_LEGEND = (
    "Suspicion: how far the change moves the policy's actions: mean distance between the "
    'translations it asks for with and without the change, each component of which is in [-1, 1]. '
    "Gripper: the same of the gripper's. No rollout was run under a change, and neither is a "
    f'failure rate. {_WARNING}')
_NO_ACTION = 'the policy gives no action there'
_HEADER = ('change of the scene', 'slot', 'suspicion', 'gripper')


def kind(perturbation: Perturbation) -> str:
    """Return what kind of change it is, a key of COLORS."""
    part = perturbation.part.partition(':')[0]
    if part in ('light', 'camera'):
        return part
    return 'colour' if perturbation.property == 'color' else perturbation.property


def suspicion_table(suspicion: Suspicion, catalogue: Catalogue, title: str) -> str:
    """
    Return the suspicion for a terminal, at most 96 columns, the highest first.

    Where the policy gives no action it is '–', last, and a line below says so.
    title: of what it is, without an end.
    """
    names = _ranked(suspicion)
    cells = [_HEADER, *(
        (_short(name), catalogue[name].slot, _number(suspicion.deviation[name], 3),
         _number(suspicion.gripper[name], 3)) for name in names)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    longest = max(1, min(BAR, WIDTH - sum(widths) - 2 * len(widths)))
    known, most = _known(suspicion), _most(suspicion)
    bars = ['', *('█' * round(longest * known.get(name, 0.0) / most) for name in names)]
    lines = ['  '.join([
        name.ljust(widths[0]), slot.ljust(widths[1]), value.rjust(widths[2]),
        gripper.rjust(widths[3]), bar]).rstrip()
        for (name, slot, value, gripper), bar in zip(cells, bars, strict=True)]
    rule = '─' * min(WIDTH, sum(widths) + 2 * len(widths) + longest)
    silent = [f'–: {_NO_ACTION}.'] * (len(known) < len(names))
    return '\n'.join([*textwrap.wrap(f'{title}: {_asked(suspicion)}.', WIDTH), '', lines[0], rule,
                      *lines[1:], rule, *silent, *textwrap.wrap(_LEGEND, WIDTH)])


def suspicion_png(suspicion: Suspicion, catalogue: Catalogue, title: str) -> bytes:
    """
    Draw the suspicion as a PNG picture: a bar a perturbation, the highest on top.

    Bars are coloured by the kind of change; those of changes of contact are hatched. Where the
    policy gives no action words stand in the place of a bar, below all others.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names, known = _ranked(suspicion), _known(suspicion)
    height = 1.9 + 0.27 * len(names)
    figure = Figure(figsize=(9, height), dpi=160, facecolor='white')
    axes = figure.add_axes((0.27, 0.85 / height, 0.68, 1 - 1.85 / height))
    for place, name in enumerate(names):
        change = catalogue[name]
        axes.barh(place, known.get(name, 0.0), height=0.72, color=COLORS[kind(change)],
                  edgecolor='white', linewidth=0,
                  hatch='///' if change.property in CONTACT else None)
        said = _number(suspicion.deviation[name], 2)
        axes.text(known.get(name, 0.0), place,
                  f' {said}' if name in known else f' {said} {_NO_ACTION}',
                  va='center', fontsize=9, color=LIGHT.muted)
    axes.set_yticks(range(len(names)), list(map(_short, names)), fontsize=10, color=LIGHT.ink,
                    parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.08 * _most(suspicion))
    axes.set_xlabel("how far the change moves the policy's actions (mean distance of the "
                    'translation)', fontsize=10, color=LIGHT.ink)
    axes.tick_params(length=0, labelcolor=LIGHT.ink)
    axes.grid(axis='x', color=LIGHT.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    kinds = {kind(catalogue[name]): catalogue[name].property in CONTACT for name in names}
    axes.legend(
        handles=[Patch(facecolor=COLORS[each], edgecolor='white', linewidth=0, label=each,
                       hatch='///' if kinds[each] else None)
                 for each in COLORS if each in kinds],
        title='kind of change', loc='lower right', frameon=False, fontsize=10)
    for down, text, color, size, weight in (
            (0.2, f'Suspicion: {title}', LIGHT.ink, 13, 'bold'),
            (0.5, f'{_asked(suspicion)[0].upper()}{_asked(suspicion)[1:]}; no failure rate.',
             LIGHT.muted, 10, 'normal'),
            (0.73, _WARNING, LIGHT.muted, 10, 'normal')):
        figure.text(0.02, 1 - down / height, text, color=color, fontsize=size, va='center',
                    weight=weight, parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format='png')
    return picture.getvalue()


def _ranked(suspicion: Suspicion) -> list[str]:
    known = _known(suspicion)
    return sorted(suspicion.deviation,
                  key=lambda name: (name not in known, -known.get(name, 0.0), name))


def _known(suspicion: Suspicion) -> dict[str, float]:
    """Return the deviations under changes that the policy gives an action under."""
    return {name: value for name, value in suspicion.deviation.items() if not math.isnan(value)}


def _most(suspicion: Suspicion) -> float:
    """Return what the longest bar stands for, not 0."""
    return max(_known(suspicion).values(), default=0.0) or 1.0


def _number(value: float, digits: int) -> str:
    return '–' if math.isnan(value) else f'{value:.{digits}f}'


def _short(name: str) -> str:
    return name if len(name) <= NAME else f'{name[:NAME - 1]}…'


def _asked(suspicion: Suspicion) -> str:
    return (f'asked in {count(suspicion.states, "state")} of '
            f'{count(suspicion.rollouts, "nominal rollout")} what it would do under each of '
            f'{count(len(suspicion.deviation), "change")}')
