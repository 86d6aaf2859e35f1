# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The ledger: the durable record of every rollout asked for, begun and finished."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
import fcntl
from itertools import chain
import json
import os
from pathlib import Path
import sqlite3
import threading
import time
from typing import Any, NamedTuple

from robomd_ros.errors import UserError
from robomd_ros.rollouts.frames import decode, encode
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult, RolloutRunner, RunnerError
from robomd_ros.rollouts.rollout import SOLVED_AT_RESET
from robomd_ros.worlds.protocol import Outcome

VERSION = 2  # of the schema, see docs/failure_map.md
INVALID_IN_A_ROW = 3
_SPOKEN = {'parallel': 'number of executors'}  # settings by what users call them
_AGAIN = 'then give the same command again, it goes on from there'

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE run (settings TEXT NOT NULL, command TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE rollouts (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, condition TEXT NOT NULL,
    seed INTEGER NOT NULL, trial INTEGER NOT NULL, purpose TEXT NOT NULL, probability REAL,
    asked REAL NOT NULL, begun REAL, ended REAL, executor TEXT, verdict TEXT, reason TEXT,
    confidence REAL, source TEXT, steps INTEGER, duration REAL, policy_digest TEXT NOT NULL,
    model_digest TEXT NOT NULL, versions TEXT NOT NULL, first_frame BLOB, last_frame BLOB);
CREATE INDEX ends ON rollouts (condition, purpose, trial, verdict, reason) WHERE ended IS NOT NULL;
PRAGMA user_version = {VERSION};
COMMIT;
"""


class LedgerError(UserError):
    """The ledger, or its directory, cannot be opened or written; what had ended is still in it."""


class OtherRunError(UserError):
    """The ledger holds a diagnosis with other settings."""


class PolicyUnusable(RunnerError):  # noqa: N818, what happened is no error of the program
    """Three rollouts in a row were invalid."""


class End(NamedTuple):
    """
    How a rollout ended, in short.

    names: of its condition's perturbations, ordered by slot. purpose, trial: as in RolloutRequest.
    verdict, reason: of the outcome.
    """

    names: tuple[str, ...]
    purpose: str
    trial: int
    verdict: str
    reason: str


class Ledger:
    """
    DIR/ledger.sqlite, one row a rollout, for any threads of one process at a time.

    What a method has written is on the disk when it returns. Every method raises LedgerError if
    the file cannot be read or written.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], fixed: Iterable[str], command: str,
                 versions: Mapping[str, str]) -> None:
        """
        Open the ledger, or make it and the directory.

        settings: of the run, for JSON, with rollouts, policy_digest and model_digest among them.
        fixed: names of those that must be as they were if there is a rollout in it already;
        rollouts may not be fewer. versions: name -> version of what the results depend on.
        Raises OtherRunError if the ledger holds a run with other settings, and LedgerError if it
        is damaged, in use, or out cannot be written to.
        """
        self.path = out / 'ledger.sqlite'
        self.settings = dict(settings)
        self.versions = dict(versions)
        self._mutex = threading.RLock()
        self._lock_file = _lock(out)
        try:
            with self._sqlite():
                # Each statement is a transaction of its own, but for those of the schema.
                self._database = sqlite3.connect(
                    self.path, timeout=30, isolation_level=None, check_same_thread=False)
                self._database.execute('PRAGMA journal_mode = WAL')
                self._database.execute('PRAGMA synchronous = FULL')
                self._open(tuple(fixed), command)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use the ledger; no other method may be called afterwards."""
        with self._mutex:
            if hasattr(self, '_database'):
                self._database.close()
            os.close(self._lock_file)

    def __enter__(self) -> 'Ledger':
        """Return the ledger itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def begin(self, request: RolloutRequest) -> None:
        """Note that the rollout was asked for, or is begun again after an end nobody noted."""
        now = time.time()
        self._execute(
            'INSERT INTO rollouts (key, condition, seed, trial, purpose, probability, asked, '
            'begun, policy_digest, model_digest, versions) '
            'VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) '
            'ON CONFLICT (key) DO UPDATE SET condition = excluded.condition, '
            'trial = excluded.trial, probability = excluded.probability, '
            'begun = excluded.begun, versions = excluded.versions',
            request.key, json.dumps(request.condition.names), request.seed, request.trial,
            request.purpose, request.probability, now, now, self.settings['policy_digest'],
            self.settings['model_digest'], json.dumps(self.versions))

    def end(self, result: RolloutResult) -> None:
        """Note how a rollout that was begun has ended, once and for all."""
        now = time.time()
        outcome = result.outcome
        rows = self._execute(
            'UPDATE rollouts SET ended = ?, begun = max(asked, ?), executor = ?, verdict = ?, '
            'reason = ?, confidence = ?, source = ?, steps = ?, duration = ?, first_frame = ?, '
            'last_frame = ? WHERE key = ? AND ended IS NULL RETURNING id',
            now, now - result.duration, result.executor, outcome.verdict, outcome.reason,
            outcome.confidence, outcome.source, result.steps, result.duration,
            encode(result.first_frame), encode(result.last_frame), result.request.key)
        if not rows:
            raise LedgerError(f'{self.path} has an end of the rollout {result.request.key} '
                              'already, or no beginning; give another out.')

    def result(self, request: RolloutRequest) -> RolloutResult | None:
        """
        Return how the rollout ended, None if it has not.

        Raises OtherRunError if another rollout is on record under its key.
        """
        rows = self._execute(
            'SELECT condition, seed, trial, verdict, reason, confidence, source, steps, duration, '
            'first_frame, last_frame, executor, ended FROM rollouts WHERE key = ?', request.key)
        if not rows:
            return None
        (condition, seed, trial, verdict, reason, confidence, source, steps, duration, first, last,
         executor, ended) = rows[0]
        asked = list(request.condition.names), request.seed, request.trial
        if ended is None:
            return None
        with self._sqlite():
            if (json.loads(condition), seed, trial) != asked:
                raise OtherRunError(
                    f'{self.path} has another rollout as {request.key}, as one made by other '
                    'versions of the packages it depends on can; give another out.')
            outcome = Outcome(verdict, reason, confidence, source)
            return RolloutResult(request, outcome, steps, duration, decode(first), decode(last),
                                 executor)

    def condition(self, key: str) -> tuple[str, ...] | None:
        """Return the names of the condition of the rollout, None if it has not ended."""
        rows = self._execute(
            'SELECT condition FROM rollouts WHERE key = ? AND ended IS NOT NULL', key)
        return tuple(json.loads(rows[0][0])) if rows else None

    def ends(self) -> list[End]:
        """Return how every rollout that has ended did, by condition and trial."""
        rows = self._execute(
            'SELECT condition, purpose, trial, verdict, reason FROM rollouts '
            'WHERE ended IS NOT NULL ORDER BY condition, trial, id')
        names = {condition: tuple(json.loads(condition)) for condition in {row[0] for row in rows}}
        return [End(names[condition], *others) for condition, *others in rows]

    def tally(self) -> dict[str, int]:
        """Return how many rollouts have ended in each verdict."""
        return dict(self._execute(
            'SELECT verdict, count(*) FROM rollouts WHERE ended IS NOT NULL GROUP BY verdict'))

    def command(self) -> str:
        """Return the command of the run."""
        return self._execute('SELECT command FROM run')[0][0]

    def last_verdicts(self, rollouts: int) -> list[str]:
        """Return the verdicts on the last of them to end, last first, less solved at reset."""
        rows = self._execute(
            'SELECT verdict FROM rollouts WHERE ended IS NOT NULL AND reason != ? '
            'ORDER BY ended DESC, id DESC LIMIT ?', SOLVED_AT_RESET, rollouts)
        return [verdict for verdict, in rows]

    def _open(self, fixed: tuple[str, ...], command: str) -> None:
        version, = self._database.execute('PRAGMA user_version').fetchone()
        if not version and not self._database.execute('SELECT 1 FROM sqlite_schema').fetchone():
            self._database.executescript(_SCHEMA)
        elif version != VERSION:
            raise LedgerError(f'{self.path} is not a ledger of this version of robomd_ros; give '
                              'another out.')
        fault, = self._database.execute('PRAGMA quick_check(1)').fetchone()
        if fault != 'ok':
            raise sqlite3.DatabaseError(fault)
        row = self._database.execute('SELECT settings FROM run').fetchone()
        if row is None:
            self._execute('INSERT INTO run VALUES (?, ?, ?)', json.dumps(self.settings), command,
                          time.time())
            return
        if self._database.execute('SELECT 1 FROM rollouts').fetchone():
            self._compare(json.loads(row[0]), fixed)
        self._execute(
            'UPDATE run SET settings = ?, command = ?', json.dumps(self.settings), command)

    def _compare(self, old: Mapping[str, Any], fixed: tuple[str, ...]) -> None:
        differences = [f'{_SPOKEN.get(name, name)} ({_short(old.get(name))}, '
                       f'now {_short(self.settings[name])})' for name in fixed
                       if old.get(name) != self.settings[name]]
        if differences:
            raise OtherRunError(f'{self.path.parent} holds a diagnosis with another '
                                f'{" and ".join(differences)}; give the same settings or another '
                                'out.')
        if self.settings['rollouts'] < old['rollouts']:
            raise OtherRunError(
                f'{self.path.parent} holds a diagnosis of {old["rollouts"]} rollouts, more than '
                f'{self.settings["rollouts"]}; give at least as many or another out.')
        if self.settings['rollouts'] > old['rollouts'] and self._has_told(old['rollouts']):
            raise OtherRunError(
                f'{self.path.parent} holds a diagnosis of {old["rollouts"]} rollouts whose '
                'verdicts are known or on the way, and to add some in the light of those would '
                'make them wrong; give another out to run more.')

    def _has_told(self, asked: int) -> bool:
        """Return whether final intervals and tests are made of what it holds, or being made."""
        (confirming, discovered, ended), = self._execute(
            "SELECT max(key LIKE 'confirm/%'), max(purpose = 'discovery'), count(ended) "
            'FROM rollouts')
        return bool(confirming or not discovered and ended >= asked)

    def _execute(self, statement: str, *values: Any) -> list[tuple]:
        with self._mutex, self._sqlite():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _sqlite(self) -> Iterator[None]:
        try:
            yield
        except (UserError, sqlite3.ProgrammingError):
            raise
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise LedgerError(_sentence(self.path, error)) from error


class LedgeredRunner:
    """
    Runs rollouts with another runner, each of them once, and keeps them in the ledger.

    A rollout whose key has ended in the ledger is answered from there. One that was begun when the
    process died is run again, under the same key.
    """

    def __init__(self, runner: RolloutRunner, ledger: Ledger) -> None:
        self.parallel = runner.parallel
        self.horizon = runner.horizon
        self._runner = runner
        self._ledger = ledger
        self._mutex = threading.Lock()
        # What was in the way may have been mended since: one more invalid rollout tells.
        last = [*ledger.last_verdicts(INVALID_IN_A_ROW - 1), '']
        self._in_a_row = next(n for n, verdict in enumerate(last) if verdict != 'invalid')

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """
        Run the requests and yield the results as they finish; each is on the disk by then.

        Raises PolicyUnusable if three rollouts in a row, by their ends, were invalid; solved at
        reset does not count. Raises LedgerError if the ledger cannot be written, OtherRunError if
        it has another rollout under a key, and what the other runner raises.
        """
        requests = iter(requests)
        for request in requests:
            result = self._ledger.result(request)
            if result is None:
                requests = chain([request], requests)
                break
            yield result
        else:
            return
        known: deque[RolloutResult] = deque()
        for result in self._runner.run(self._unknown(requests, known)):
            self._end(result)
            yield result
            while known:
                yield known.popleft()
        yield from known

    def _unknown(self, requests: Iterable[RolloutRequest],
                 known: deque[RolloutResult]) -> Iterator[RolloutRequest]:
        for request in requests:
            result = self._ledger.result(request)
            if result is not None:
                known.append(result)
            else:
                self._ledger.begin(request)
                yield request

    def _end(self, result: RolloutResult) -> None:
        outcome = result.outcome
        with self._mutex:
            self._ledger.end(result)
            if outcome.verdict != 'invalid':
                self._in_a_row = 0
            elif outcome.reason != SOLVED_AT_RESET:
                self._in_a_row += 1
            in_a_row = self._in_a_row
        if in_a_row >= INVALID_IN_A_ROW:
            raise PolicyUnusable(
                f'Three rollouts in a row were invalid, the last one for {outcome.reason}; mend '
                'that and diagnose again, with another out if the policy has changed.')


def _lock(out: Path) -> int:
    """Return DIR/ledger.lock, open and locked; the kernel unlocks it when the process dies."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / 'ledger.lock', os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LedgerError(
            f'{out} cannot be written to ({error.strerror}); mend that or give another out.'
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BlockingIOError:
        process = os.read(lock, 20).decode(errors='replace') or 'unknown'
        os.close(lock)
        raise LedgerError(f'{out} is in use by another diagnosis (process {process}); wait for '
                          'its end or give another out.') from None
    except OSError as error:
        os.close(lock)
        raise LedgerError(f'{out} cannot be written to ({error.strerror}); mend that, '
                          f'{_AGAIN}.') from None
    return lock


def write_whole(path: Path, data: bytes) -> None:
    """
    Write the file, and its directory, so that a reader finds the old one or the new one whole.

    Raises LedgerError if it cannot be written.
    """
    part = path.with_name(f'.{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise LedgerError(
            f'{path} cannot be written ({error.strerror}); mend that, {_AGAIN}.') from None


def _sentence(path: Path, error: Exception) -> str:
    name = getattr(error, 'sqlite_errorname', '')
    if name == 'SQLITE_FULL':
        return f'{path} cannot be written, the disk is full; make room, {_AGAIN}.'
    if name.startswith(('SQLITE_CANTOPEN', 'SQLITE_IOERR', 'SQLITE_READONLY', 'SQLITE_BUSY')):
        return f'{path} cannot be written ({error}); mend that, {_AGAIN}.'
    return f'{path} is damaged or not a ledger ({error}); give another out.'


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f'{text[:12]}...'
