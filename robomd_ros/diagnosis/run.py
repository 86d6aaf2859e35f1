# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A whole diagnosis: the ledger, the searcher and the failure map together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
import tempfile
import threading

import numpy as np
from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis import sweep
from robomd_ros.diagnosis.environment import MAX_PERTURBATIONS, REWARDS, Search
from robomd_ros.diagnosis.failure_map import failure_map, FailureMap
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import Ledger, LedgeredRunner, LedgerError, write_whole
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult, RolloutRunner, RunnerError
from robomd_ros.worlds.protocol import WorldInfo

MAP_FILE = 'failure_map.json'
LEAST = {'ppo': 3}  # rollouts, for searchers that need more than one
LARGEST = 2**31 - 1  # seed, and number of rollouts
DEEPEST = 20  # max_perturbations
MAP_EVERY = 20  # rollouts from one writing of the map to the next


def _ppo(search: Search) -> None:
    from robomd_ros.diagnosis import ppo  # brings torch

    ppo.search(search)


SEARCHERS: dict[str, Callable[[Search], None]] = {'ppo': _ppo, 'sweep': sweep.search}


@dataclass(frozen=True)
class Settings:
    """
    What a user asks for.

    task: e.g. 'lift'. policy: as it is named, e.g. 'builtin:lift'. catalogue: path of its file.
    searcher: one of SEARCHERS. rollouts: the budget, control rollouts included. seed: of the
    search and of the initial states. out: the directory for all that is written. For ppo, ignored
    by sweep: reward, one of REWARDS; max_perturbations, on top of each other in an episode.
    """

    task: str
    policy: str
    catalogue: str
    searcher: str
    rollouts: int
    seed: int
    out: Path
    reward: str = 'paper'
    max_perturbations: int = MAX_PERTURBATIONS


@dataclass(frozen=True)
class Progress:
    """
    How far a diagnosis is.

    done: rollouts that have ended, of the budget asked, over all sessions. failures, invalid: of
    those. map: the failure map so far.
    """

    done: int
    asked: int
    failures: int
    invalid: int
    map: FailureMap  # noqa: A003, nothing in here maps


class DiagnosisCanceled(RunnerError):  # noqa: N818, what happened is no error
    """The diagnosis was canceled; what has ended is kept."""


def check_settings(settings: Settings) -> None:
    """
    Check what can be checked before anything heavy is started; make the directory out.

    Raises UserError for an unknown searcher or reward and a number out of range, LedgerError if
    out cannot be written to.
    """
    if settings.searcher not in SEARCHERS:
        raise UserError(f'Unknown searcher {settings.searcher!r}; choose one of '
                        f'{", ".join(SEARCHERS)}.')
    least = LEAST.get(settings.searcher, 1)
    if settings.rollouts < least:
        raise UserError(f'{settings.rollouts} rollouts are too few for the searcher '
                        f'{settings.searcher}; ask for {least} or more.')
    if settings.reward not in REWARDS:
        raise UserError(f'Unknown reward {settings.reward!r}; choose one of '
                        f'{", ".join(REWARDS)}.')
    for name, value, low, high in (
            ('rollouts', settings.rollouts, least, LARGEST), ('seed', settings.seed, 0, LARGEST),
            ('max_perturbations', settings.max_perturbations, 1, DEEPEST)):
        if not low <= value <= high:
            raise UserError(
                f'{name} must be a whole number from {low} to {high}, not {value}.')
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.out) as file:
            file.write(b'\0')
    except OSError as error:
        raise LedgerError(f'{settings.out} cannot be written to ({error.strerror}); mend that or '
                          'give another out.') from None


def diagnose(
    settings: Settings,
    catalogue: Catalogue,
    runner: RolloutRunner,
    info: WorldInfo,
    policy_digest: str,
    versions: Mapping[str, str],
    command: str,
    on_progress: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> FailureMap:
    """
    Diagnose the policy, going on from what the ledger in out has; return the failure map.

    catalogue: the file's of the settings. info, policy_digest, versions: of what the runner runs.
    command: what the user gave, to be recorded. on_progress: called at the start and after every
    rollout, from any thread, by one at a time. should_stop: asked, from any thread, before a
    rollout is begun; on True those that are running come to their ends and DiagnosisCanceled is
    raised.
    Raises UserError for settings that cannot be used, among them LedgerError, if out cannot be
    written or the disk is full, and OtherRunError, if out holds another diagnosis; and
    RunnerError, among them PolicyUnusable. The failure map so far is written in any case.
    """
    check_settings(settings)
    for what, task in (('catalogue', catalogue.task), ('world', info.task)):
        if task != settings.task:
            raise UserError(f'The {what} is for the task {task}, not for {settings.task}; give '
                            'another one or another task.')
    recorded = {
        'task': settings.task, 'policy': settings.policy, 'policy_digest': policy_digest,
        'catalogue': catalogue.path, 'catalogue_digest': catalogue.digest,
        'searcher': settings.searcher, 'rollouts': settings.rollouts, 'seed': settings.seed,
        'reward': settings.reward, 'max_perturbations': settings.max_perturbations,
        'horizon': runner.horizon, 'parallel': runner.parallel, 'world': info.world,
        'model_digest': info.model_digest, 'fidelity': info.fidelity, 'renderer': info.renderer}
    free = {'policy', 'catalogue', 'rollouts'}  # these are names, and more rollouts are welcome
    if settings.searcher == 'ppo':
        from robomd_ros.diagnosis import ppo

        ppo.check_budget(settings.rollouts, runner.parallel)
    else:  # only ppo has rewards and episodes, and environments with rollouts of their own
        free |= {'parallel', 'reward', 'max_perturbations'}
    with Ledger(settings.out, recorded, recorded.keys() - free, command, versions) as ledger:
        found = _finished(settings.out / MAP_FILE, ledger, catalogue)
        if found is None:
            session = _Session(ledger, catalogue, settings.out / MAP_FILE, on_progress)
            found = session.run(settings, runner, should_stop)
        return found


def _finished(path: Path, ledger: Ledger, catalogue: Catalogue) -> FailureMap | None:
    """Return the map in the file if it is that of the ledger, and the ledger is complete."""
    now = failure_map(ledger, catalogue)
    if now.budget['done'] < now.budget['asked']:
        return None
    try:
        found = FailureMap.from_json(path.read_text('utf-8'))
    except (OSError, ValueError):  # UserError is a ValueError
        return None
    same = (found.settings, found.budget) == (now.settings, now.budget)
    return found if same else None


class _Session:
    """Keeps the failure map up to date while rollouts end."""

    def __init__(self, ledger: Ledger, catalogue: Catalogue, path: Path,
                 on_progress: Callable[[Progress], None]) -> None:
        self._ledger, self._catalogue, self._path = ledger, catalogue, path
        self._on_progress = on_progress
        self._mutex = threading.RLock()
        self._mass: np.ndarray | None = None
        self._map = failure_map(ledger, catalogue)

    def run(self, settings: Settings, runner: RolloutRunner,
            should_stop: Callable[[], bool]) -> FailureMap:
        """Run the searcher to its end; write the map whatever happens."""
        self._tell()
        watched = _WatchedRunner(LedgeredRunner(runner, self._ledger), self._note, should_stop)
        search = Search(
            self._catalogue, watched, settings.rollouts, settings.seed,
            settings.out / 'checkpoints', self._ledger.condition, self._take_mass,
            settings.reward, settings.max_perturbations)
        try:
            SEARCHERS[settings.searcher](search)
        except BaseException:
            with suppress(LedgerError):  # the first error is the one to tell
                self._write()
            raise
        self._write()
        return self._map

    def _note(self) -> None:
        """Take in what has ended."""
        with self._mutex:
            before = self._map.budget['done']
            self._map = failure_map(self._ledger, self._catalogue, self._mass)
            done = self._map.budget['done']
            if done == before:  # the rollout is an earlier session's
                return
            self._tell()
            if done // MAP_EVERY > before // MAP_EVERY:
                self._write()

    def _take_mass(self, mass: np.ndarray) -> None:
        with self._mutex:
            self._mass = mass
            self._write()

    def _write(self) -> None:
        with self._mutex:
            self._map = failure_map(self._ledger, self._catalogue, self._mass)
            write_whole(self._path, self._map.to_json().encode())

    def _tell(self) -> None:
        budget = self._map.budget
        singles = (self._map.nominal, *self._map.perturbations)
        failures = sum(row.failures for row in singles)
        failures += sum(row.failures for row in self._map.conditions)
        self._on_progress(Progress(
            budget['done'], budget['asked'], failures, budget['invalid'], self._map))


class _WatchedRunner:
    """Runs rollouts with another runner until told to stop."""

    def __init__(self, runner: RolloutRunner, on_end: Callable[[], None],
                 should_stop: Callable[[], bool]) -> None:
        self.parallel, self.horizon = runner.parallel, runner.horizon
        self._runner = runner
        self._on_end = on_end
        self._should_stop = should_stop

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """Run the requests; raise DiagnosisCanceled when all that are running have ended."""
        stopped = False

        def until_stopped() -> Iterator[RolloutRequest]:
            nonlocal stopped
            for request in requests:
                if self._should_stop():
                    stopped = True
                    return
                yield request

        for result in self._runner.run(until_stopped()):
            self._on_end()
            yield result
        if stopped:
            raise DiagnosisCanceled('The diagnosis was canceled; the same command goes on from '
                                    'here.')
