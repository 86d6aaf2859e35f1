# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd measures`."""

import argparse
from pathlib import Path

from robomd_ros.cli.common import add_command, Commands


def add_to(commands: 'Commands[argparse.ArgumentParser]') -> None:
    """Add the command."""
    measures = add_command(
        commands, 'measures', _measures,
        "print the paper's measures of a diagnosis, with the paper's own values in a column of "
        'their own, and write DIR/measures.json: pair accuracy and its ceiling, entropy of the '
        'search, failure modes, failure severity, Wasserstein distances; the diagnosis may still '
        'be running (docs/measures.md says how to read each)',
        'robomd measures runs/lift')
    measures.add_argument('dir', type=Path, metavar='DIR', help='the folder of the diagnosis')


def _measures(arguments: argparse.Namespace) -> int:
    from robomd_ros.diagnosis.measuring import measures, write_measures
    from robomd_ros.diagnosis.reading import read_diagnosis
    from robomd_ros.reports.measures import measures_table

    diagnosed = read_diagnosis(arguments.dir)
    found = measures(diagnosed)
    path = write_measures(arguments.dir, diagnosed, found)
    print(f'\n{measures_table(diagnosed.map, found)}\n\nMeasures: {path}')
    return 0
