# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A pool: the rollouts of one large sweep in one small file, from which searches are replayed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, UTC
from functools import cached_property
import hashlib
import io
import json
from pathlib import Path
import sqlite3
from typing import Any
import zipfile

import numpy as np
from robomd_ros.conditions import Catalogue, Condition
from robomd_ros.diagnosis.statistics import Failures
from robomd_ros.diagnosis.suspicion import read_suspicion, Suspicion
from robomd_ros.errors import UserError
from robomd_ros.rollouts.frames import decode
from robomd_ros.rollouts.ledger import write_whole
from robomd_ros.rollouts.protocol import Deviation, RolloutRequest, RolloutResult, RunnerError
from robomd_ros.rollouts.reading import address
from robomd_ros.worlds.protocol import Outcome

FORMAT = 'robomd_ros/pool'
VERSION = 1
NOMINAL = 'nominal'


@dataclass(frozen=True)
class Pool:
    """
    Recorded rollouts: of the nominal condition and of every perturbation alone, trial by trial.

    names: of the conditions, 'nominal' first. failed, valid: (conditions, trials) bool; what was
    invalid has not failed. steps: (conditions, trials), control steps. frames: (conditions,
    trials, 84, 84, 3) uint8 RGB, the first ones.
    settings: of the sweep, as in its failure map. versions, command, created: of the sweep; the
    last is a time in UTC. suspicion: of the same policy, None if it was not measured.
    """

    names: tuple[str, ...]
    failed: np.ndarray
    valid: np.ndarray
    steps: np.ndarray
    frames: np.ndarray
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str
    created: str
    suspicion: Suspicion | None = None

    @property
    def trials(self) -> int:
        """Return how many rollouts there are of each condition."""
        return self.failed.shape[1]

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of all that the pool holds, hex; not that of its file."""
        whole = hashlib.sha256(self._about().encode())
        for array in self._arrays().values():
            whole.update(str((array.dtype, array.shape)).encode() + array.tobytes())
        return whole.hexdigest()

    def failures(self, name: str) -> Failures:
        """Return the valid rollouts of the condition."""
        place = self.names.index(name)
        return {trial: bool(self.failed[place, trial])
                for trial in np.flatnonzero(self.valid[place]).tolist()}

    def check(self, catalogue: Catalogue) -> None:
        """Raise UserError unless the pool is of just this catalogue."""
        if self.settings['catalogue_digest'] != catalogue.digest:
            raise UserError(f'The recorded rollouts are of another catalogue than '
                            f'{catalogue.path}; give the one they were made with.')
        missing = [name for name in (NOMINAL, *catalogue.names)
                   if name not in self.names or not self.failures(name)]
        if missing:
            raise UserError(f'The recorded rollouts have no valid one of {missing[0]}; record a '
                            'sweep with more rollouts.')

    def save(self, path: Path) -> None:
        """Write the file, whole; raises LedgerError if it cannot be written."""
        file = io.BytesIO()
        np.savez_compressed(file, about=np.array(self._about()), **self._arrays())
        write_whole(path, file.getvalue())

    def _arrays(self) -> dict[str, np.ndarray]:
        return {'failed': self.failed, 'valid': self.valid, 'steps': self.steps,
                'frames': self.frames}

    def _about(self) -> str:
        return json.dumps({
            'format': FORMAT, 'version': VERSION, 'names': list(self.names),
            'settings': dict(self.settings), 'versions': dict(self.versions),
            'command': self.command, 'created': self.created,
            'suspicion': self.suspicion and self.suspicion.to_dict()})


def load_pool(path: Path) -> Pool:
    """
    Return the pool in the file.

    Raises UserError if there is none, or it is damaged or no pool.
    """
    if not path.is_file():
        raise UserError(f'There is no pool of rollouts {path}; make one with robomd benchmark '
                        'pool.')
    try:
        with path.open('rb') as stream, np.load(stream, allow_pickle=False) as file:
            about = json.loads(str(file['about']))
            arrays = {name: file[name] for name in ('failed', 'valid', 'steps', 'frames')}
        if (about.pop('format'), about.pop('version')) != (FORMAT, VERSION):
            raise ValueError('another format or version')
        suspicion = about.pop('suspicion')
        pool = Pool(names=tuple(about.pop('names')), **arrays, **about,
                    suspicion=suspicion and Suspicion.from_dict(suspicion))
        shape = (len(pool.names), pool.trials)
        kinds = {array.dtype.kind for array in (pool.failed, pool.valid)}
        if (any(array.shape != shape for array in (pool.failed, pool.valid, pool.steps))
                or kinds != {'b'} or pool.frames.shape != (*shape, 84, 84, 3)
                or not pool.trials or not isinstance(pool.settings['horizon'], int)):
            raise ValueError('arrays that do not fit each other')
    # What NumPy says of a file that it did not write has many kinds.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError,
            zipfile.BadZipFile) as error:
        raise UserError(f'{path} is damaged or not a pool of rollouts ({error}); make one with '
                        'robomd benchmark pool.') from error
    return pool


def make_pool(sweep_dir: Path, catalogue: Catalogue, out: Path) -> Pool:
    """
    Write the pool of a sweep, with its suspicion if DIR/suspicion.json is of the same; return it.

    sweep_dir: DIR, the folder of a diagnosis with the searcher sweep. catalogue: the sweep's.
    Raises UserError if it is none, cannot be read, or lacks a perturbation.
    """
    pool = read_sweep(sweep_dir)
    pool.check(catalogue)
    pool = replace(pool, suspicion=read_suspicion(sweep_dir, catalogue, pool.settings))
    pool.save(out)
    return pool


def read_sweep(sweep_dir: Path) -> Pool:
    """
    Return the rollouts of a sweep, those of trials that all conditions have; without suspicion.

    sweep_dir: the folder of a diagnosis, which is not written to.
    Raises UserError if it holds no sweep or cannot be read.
    """
    path = sweep_dir / 'ledger.sqlite'
    if not path.is_file():
        raise UserError(f'There is no ledger {path}; name the folder that a diagnosis with the '
                        'searcher sweep wrote its results to.')
    try:
        with closing(sqlite3.connect(address(path), uri=True)) as database:
            # These columns are in every version of the ledger.
            run, = database.execute('SELECT settings, command, created FROM run').fetchall()
            settings = json.loads(run[0])
            if settings['searcher'] != 'sweep':
                raise UserError(f'{sweep_dir} holds a diagnosis with the searcher '
                                f'{settings["searcher"]}; name one with the searcher sweep.')
            rows = database.execute(
                'SELECT condition, trial, verdict, steps, first_frame, versions FROM rollouts '
                'WHERE ended IS NOT NULL ORDER BY id').fetchall()
        found = {(_name(condition), trial): (verdict, steps, decode(frame))
                 for condition, trial, verdict, steps, frame, _ in rows}
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):  # which is a ValueError
            raise
        raise UserError(f'{path} cannot be read as a ledger ({error}); name another folder.'
                        ) from error
    names, trials = _common(found, sweep_dir)
    verdicts, steps, frames = (
        np.array([[found[name, trial][part] for trial in trials] for name in names])
        for part in range(3))
    return Pool(
        names, verdicts == 'failure', verdicts != 'invalid', steps.astype(np.int32), frames,
        settings, json.loads(rows[0][-1]), run[1],
        datetime.fromtimestamp(run[2], UTC).isoformat(timespec='seconds'))


def _name(condition: str) -> str:
    return '+'.join(json.loads(condition)) or NOMINAL


def _common(found: Iterable[tuple[str, int]],
            sweep_dir: Path) -> tuple[tuple[str, ...], list[int]]:
    """Return the conditions, nominal first, and the trials that all of them have."""
    trials_of: dict[str, set[int]] = {NOMINAL: set()}
    for name, trial in found:
        trials_of.setdefault(name, set()).add(trial)
    common = sorted(set.intersection(*trials_of.values()))
    if not common:
        raise UserError(f'{sweep_dir} has no trial on which every condition was tried; let the '
                        'sweep go on.')
    return tuple(trials_of), common


class PoolRunner:
    """
    Answers requests with rollouts of a pool, drawn with replacement; runs nothing.

    A request's seed and trial choose the recorded trial, whatever the condition, so conditions
    that share a trial are compared on the same initial state as they would be in a world. Hence
    the recorded rates are the true ones of what a searcher is shown. The last frame, which the
    pool has not, is black.
    """

    parallel = 1

    def __init__(self, pool: Pool) -> None:
        """Answer from the pool."""
        self.horizon = int(pool.settings['horizon'])
        self._pool = pool
        self._places = {name: place for place, name in enumerate(pool.names)}

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """
        Yield the results in the order of the requests.

        Raises UserError for a condition that the pool has not, as of several perturbations.
        """
        for request in requests:
            yield self._draw(request)

    def deviations(self, conditions: Sequence[Condition], seed: int,
                   on_progress: Callable[[int], None] = lambda done: None) -> list[Deviation]:
        """
        Return the recorded deviations, which are of one seed alone.

        Raises RunnerError if the pool has none.
        """
        suspicion = self._pool.suspicion
        if suspicion is None:
            raise RunnerError('The pool has no suspicion; run robomd suspect into the folder of '
                              'the sweep and make the pool again.')
        found = []
        for done, condition in enumerate(conditions, start=1):
            self._place(condition)
            found.append(Deviation(suspicion.deviation[condition.label],
                                   suspicion.gripper[condition.label],
                                   suspicion.states, suspicion.rollouts))
            on_progress(done)
        return found

    def _place(self, condition: Condition) -> int:
        if condition.label not in self._places:
            raise UserError(f'The pool has no rollout of {condition.label}; it can only replay '
                            'single perturbations of its own catalogue.')
        return self._places[condition.label]

    def _draw(self, request: RolloutRequest) -> RolloutResult:
        pool, place = self._pool, self._place(request.condition)
        drawn = int(np.random.default_rng([request.seed, request.trial]).integers(pool.trials))
        if not pool.valid[place, drawn]:
            outcome = Outcome('invalid', 'recorded as invalid', source='pool')
        else:
            outcome = Outcome('failure' if pool.failed[place, drawn] else 'success', source='pool')
        frame = pool.frames[place, drawn].copy()
        return RolloutResult(request, outcome, int(pool.steps[place, drawn]), 0.0, frame,
                             np.zeros_like(frame), 'pool')
