# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd compare`."""

import argparse
from pathlib import Path

from robomd_ros.cli.common import add_command, check_writable, Commands


def add_to(commands: 'Commands[argparse.ArgumentParser]') -> None:
    """Add the command."""
    compare = add_command(
        commands, 'compare', _compare,
        'compare two policies, or one before and after it was mended, from a diagnosis of each '
        'with the same catalogue, seed, horizon and fidelity: what got worse or better on the '
        'same initial states, and by how much all in all; two sweeps tell most',
        'robomd compare runs/before runs/after --out runs/change')
    compare.add_argument('a', type=Path, metavar='DIR_A', help='the folder of one diagnosis')
    compare.add_argument('b', type=Path, metavar='DIR_B',
                         help='that of the other, which is judged against DIR_A')
    compare.add_argument(
        '--out', type=Path, default=Path('comparison'),
        help='folder for comparison.json and comparison.png (default: %(default)s)')


def _compare(arguments: argparse.Namespace) -> int:
    from robomd_ros.diagnosis.comparison import compare_diagnoses, write_comparison
    from robomd_ros.diagnosis.reading import read_diagnosis
    from robomd_ros.reports.comparison import comparison_table, overlay_png
    from robomd_ros.rollouts.ledger import write_whole

    picture = arguments.out / 'comparison.png'
    found = compare_diagnoses(read_diagnosis(arguments.a), read_diagnosis(arguments.b))
    check_writable(arguments.out / 'comparison.json', picture)
    path = write_comparison(arguments.out, found)
    write_whole(picture, overlay_png(found))
    print(f'\n{comparison_table(found)}\n\nComparison: {path}\nFig. 7:     {picture}')
    return 0
