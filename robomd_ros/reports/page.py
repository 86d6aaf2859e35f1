# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The report of a diagnosis: one HTML page that needs nothing but itself."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
import json
import os
from pathlib import Path
import sqlite3

import jinja2
import numpy as np
from robomd_ros.diagnosis.reading import read_map
from robomd_ros.diagnosis.statistics import hundredths
from robomd_ros.errors import UserError
from robomd_ros.reports import sentences, table
from robomd_ros.reports.figures import DARK, radar_svg
from robomd_ros.rollouts.reading import address

TEMPLATES = Path(__file__).parent / 'templates'
FAILURES_SHOWN = 3     # per perturbation, first and last frame of each
CONDITIONS_SHOWN = 10  # stacked conditions


@dataclass(frozen=True)
class Picture:
    """
    A picture as the page holds it.

    uri: a data URI. coarse: so few pixels that each is to be seen as a square.
    """

    uri: str
    coarse: bool


@dataclass(frozen=True)
class FailedRollout:
    """A failed rollout as the page shows it; a frame nobody kept is None."""

    trial: int
    steps: int
    first: Picture | None
    last: Picture | None


def write_report(out: Path, scenes: Mapping[str, np.ndarray] | None = None) -> Path:
    """
    Write DIR/report.html from DIR/failure_map.json and DIR/ledger.sqlite; return its path.

    out: DIR. scenes: condition label ('nominal' or a perturbation's name) -> (H, W, 3) uint8 RGB;
    a condition without one shows the first frame of one of its rollouts.
    The page appears whole or not at all. Raises UserError if there is nothing to report on or the
    page cannot be written.
    """
    failure_map = read_map(out)
    names = ['nominal', *(row.name for row in failure_map.perturbations)]
    with _ledger(out) as ledger:
        pictures = {name: _scene(name, scenes or {}, ledger) for name in names}
        failures = {name: _failures(name, ledger) for name in names}
    page = _template().render(
        map=failure_map, pictures=pictures, failures=failures,
        headline=table.headline(failure_map), findings=sentences.findings(failure_map),
        why_stopped=table.why_stopped(failure_map), standing=partial(table.standing, failure_map),
        confirmed=partial(table.confirmed, failure_map),
        interval=partial(table.interval, failure_map),
        failures_shown=FAILURES_SHOWN, conditions_shown=CONDITIONS_SHOWN,
        radar=_uri(radar_svg(failure_map), 'svg+xml'),
        radar_dark=_uri(radar_svg(failure_map, DARK), 'svg+xml'))
    return _write_whole(out / 'report.html', page)


@contextmanager
def _ledger(out: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the ledger for reading; None if there is none, as beside a map that was sent alone."""
    path = out / 'ledger.sqlite'
    if not path.is_file():
        yield None
        return
    try:
        with closing(sqlite3.connect(address(path), uri=True)) as ledger:
            yield ledger
    except sqlite3.Error as error:
        raise UserError(f'{path} cannot be read as a ledger ({error}): move it away to get a '
                        'report without frames.') from error


def _scene(name: str, scenes: Mapping[str, np.ndarray],
           ledger: sqlite3.Connection | None) -> Picture | None:
    if name in scenes:
        return _picture(_png(scenes[name]))
    # Bytes 16 to 24 of a PNG are its width and height, so this takes the largest; then the lowest
    # trial, so that most pictures show one initial state.
    frames = _query(ledger, """
        SELECT first_frame FROM rollouts
        WHERE condition = ? AND ended IS NOT NULL AND length(first_frame) > 0
        ORDER BY substr(first_frame, 17, 8) DESC, trial, id LIMIT 1""", _condition(name))
    return _picture(frames[0][0]) if frames else None


def _failures(name: str, ledger: sqlite3.Connection | None) -> list[FailedRollout]:
    rows = _query(ledger, """
        SELECT trial, steps, first_frame, last_frame FROM rollouts
        WHERE condition = ? AND ended IS NOT NULL AND verdict = 'failure'
        ORDER BY trial, id LIMIT ?""", _condition(name), FAILURES_SHOWN)
    return [FailedRollout(trial, steps, _picture(first), _picture(last))
            for trial, steps, first, last in rows]


def _condition(name: str) -> str:
    return json.dumps([] if name == 'nominal' else [name])


def _query(ledger: sqlite3.Connection | None, sql: str, *values: str | int) -> list[tuple]:
    return ledger.execute(sql, values).fetchall() if ledger else []


def _png(image: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _picture(png: bytes | None) -> Picture | None:
    if not png:
        return None
    return Picture(_uri(png, 'png'), coarse=int.from_bytes(png[16:20]) <= 160)


def _uri(data: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {'percent': table.percent, 'percents': table.percents,
                            'points': _points, 'between': _between, 'p': _p,
                            'count': table.count, 'no_rate': table.no_rate}
    return environment.get_template('report.html.j2')


def _points(share: float) -> str:
    """Write a difference of shares in points of a hundred, with its sign."""
    return f'{100 * share:+.0f}'.replace('-', '−')


def _between(ends: tuple[float, float]) -> str:
    """Write an interval of differences in points, e.g. ``−2 to +16``."""
    low, high = hundredths(ends)
    return f'{low:+} to {high:+}'.replace('-', '−')


def _p(p: float) -> str:
    return 'p < 0.001' if p < 0.001 else f'p = {p:.3f}'


def _write_whole(path: Path, text: str) -> Path:
    """Write the file so that a reader finds the old one or the new one, never a part."""
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        partial.write_text(text, 'utf-8')
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f'{path} cannot be written: {error.strerror}.') from error
    return path
