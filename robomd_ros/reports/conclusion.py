# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How a diagnosis ends for the person who ran it: the report, and what was found, in print."""

from collections.abc import Mapping
from pathlib import Path
import textwrap

import numpy as np
from robomd_ros.conditions import load_catalogue
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.reading import read_map
from robomd_ros.errors import UserError
from robomd_ros.reports.page import write_report
from robomd_ros.reports.sentences import findings
from robomd_ros.reports.table import map_table, WIDTH


def conclude(out: Path) -> str:
    """
    Write DIR/report.html with a picture of every scene; return findings, map and where all lies.

    Raises UserError if DIR holds no failure map or the report cannot be written.
    """
    failure_map = read_map(out)
    report = write_report(out, _scenes(failure_map))
    found = '\n'.join(
        textwrap.fill(sentence, WIDTH, initial_indent='- ', subsequent_indent='  ')
        for sentence in findings(failure_map))
    return (f'\n{map_table(failure_map)}\n\n{found}\n\n'
            f'Failure map: {out / "failure_map.json"}\nReport:      {report}')


def _scenes(failure_map: FailureMap) -> Mapping[str, np.ndarray]:
    """Return the scenes, drawn anew; none if the catalogue has changed or nothing can draw."""
    from robomd_ros.worlds.scenes import render_scenes  # the simulation takes seconds to import

    settings = failure_map.settings
    try:
        catalogue = load_catalogue(settings['catalogue'])
        if catalogue.digest != settings['catalogue_digest']:
            return {}
        return render_scenes(settings['task'], catalogue, settings['fidelity'])
    except UserError:
        return {}
