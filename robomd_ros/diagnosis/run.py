# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A whole diagnosis: the ledger, the searcher and the failure map together."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
import math
from pathlib import Path
import tempfile
import threading
from typing import Any

from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis import combinations, confirmation
from robomd_ros.diagnosis.environment import MAX_PERTURBATIONS, REWARDS, Search
from robomd_ros.diagnosis.evidence import Evidence, failure_map
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.settling import settled
from robomd_ros.diagnosis.suspicion import measure_suspicion, read_suspicion, Suspicion
from robomd_ros.diagnosis.watching import WatchedRunner
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import Ledger, LedgeredRunner, LedgerError, write_whole
from robomd_ros.rollouts.protocol import PolicyRunner
from robomd_ros.worlds.protocol import WorldInfo

MAP_FILE = 'failure_map.json'
LARGEST = 2**31 - 1  # seed
MOST = confirmation.FIRST_TRIAL  # rollouts
DEEPEST = 20  # max_perturbations
MAP_EVERY = 20  # rollouts from one writing of the map to the next
MIN_CONTROL = 20  # control rollouts at least, if they leave half of the budget to the search
STOPS = ('budget', 'settled')


@dataclass(frozen=True)
class Searcher:
    """
    Someone who chooses conditions.

    module: where its search(search) is, imported only when it is used. fixed: whether what it
    tries does not depend on what it has found. learns: with PPO or A2C, in episodes.
    """

    module: str
    fixed: bool = False
    learns: bool = False

    def search(self, search: Search) -> None:
        """Spend the budget."""
        import_module(f'robomd_ros.diagnosis.{self.module}').search(search)


SEARCHERS = {
    'ppo': Searcher('ppo', learns=True),
    'a2c': Searcher('a2c', learns=True),
    'sweep': Searcher('sweep', fixed=True),
    'random': Searcher('uniform', fixed=True),
    'thompson': Searcher('thompson'),
    'successive_halving': Searcher('halving'),
    'gp': Searcher('gaussian_process'),
}


@dataclass(frozen=True)
class Settings:
    """
    What a user asks for.

    task: e.g. 'lift'. policy: as it is named, e.g. 'builtin:lift'. catalogue: path of its file.
    searcher: one of SEARCHERS. rollouts: the budget, control and confirmation included. seed: of
    the search and of the initial states. out: the directory for all that is written.
    control_share: of the search's budget, for nominal rollouts; at least MIN_CONTROL of them.
    confirm_share: of the whole budget; not spent by searchers that are fixed.
    stop: one of STOPS; 'settled' ends the search when the settle_top perturbations that fail most
    are known, to within settle_within of a failure rate.
    For ppo and a2c, ignored by the others: reward, one of REWARDS; max_perturbations, on top of
    each other in an episode.
    """

    task: str
    policy: str
    catalogue: str
    searcher: str
    rollouts: int
    seed: int
    out: Path
    control_share: float = 0.1
    confirm_share: float = 0.4
    stop: str = 'budget'
    settle_top: int = 5
    settle_within: float = 0.2
    reward: str = 'paper'
    max_perturbations: int = MAX_PERTURBATIONS

    @property
    def fixed(self) -> bool:
        """Whether nothing that is tried depends on what was found."""
        return SEARCHERS[self.searcher].fixed and self.stop == 'budget'

    @property
    def confirm(self) -> int:
        """Return how many rollouts are kept for confirmation."""
        return 0 if self.fixed else int(self.confirm_share * self.rollouts)

    @property
    def control(self) -> int:
        """Return how many rollouts of the search are of the nominal condition."""
        search = self.rollouts - self.confirm
        return max(1, int(self.control_share * search), min(MIN_CONTROL, search // 2))


@dataclass(frozen=True)
class Progress:
    """
    How far a diagnosis is.

    done: rollouts that have ended, of the budget asked, over all sessions. failures, invalid: of
    those. read_map: returns the failure map of the moment it is called, from any thread.
    detail: what is done in place of rollouts, one sentence; empty while rollouts are run.
    """

    done: int
    asked: int
    failures: int
    invalid: int
    read_map: Callable[[], FailureMap]
    detail: str = ''


def check_settings(settings: Settings) -> None:
    """
    Check what can be checked before anything heavy is started; make the directory out.

    Raises UserError for an unknown searcher or reward and a number out of range, LedgerError if
    out cannot be written to.
    """
    if settings.searcher not in SEARCHERS:
        raise UserError(f'Unknown searcher {settings.searcher!r}; choose one of '
                        f'{", ".join(SEARCHERS)}.')
    for name, known in (('reward', tuple(REWARDS)), ('stop', STOPS)):
        if getattr(settings, name) not in known:
            raise UserError(f'Unknown {name} {getattr(settings, name)!r}; choose one of '
                            f'{", ".join(known)}.')
    for name, low, high, kind in (
            ('rollouts', 1, MOST, 'whole '), ('seed', 0, LARGEST, 'whole '),
            ('max_perturbations', 1, DEEPEST, 'whole '), ('settle_top', 1, 1000, 'whole '),
            ('control_share', 0, 0.9, ''), ('confirm_share', 0, 0.9, ''),
            ('settle_within', 0, 1, '')):
        value = getattr(settings, name)
        if not low <= value <= high:
            raise UserError(
                f'{name} must be a {kind}number from {low} to {high}, not {value}.')
    if SEARCHERS[settings.searcher].learns:
        from robomd_ros.diagnosis import ppo

        ppo.check_budget(settings.rollouts - settings.confirm, settings.control, 1)
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
    runner: PolicyRunner,
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
    command: what the user gave, to be recorded. on_progress: called at the start, after every
    rollout and now and then while there are none, from any thread, by one at a time. should_stop:
    asked, from any thread, before a rollout is begun; on True those that are running come to their
    ends and DiagnosisCanceled is raised.
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
        'control_share': settings.control_share, 'confirm_share': settings.confirm_share,
        'stop': settings.stop, 'settle_top': settings.settle_top,
        'settle_within': settings.settle_within,
        'reward': settings.reward, 'max_perturbations': settings.max_perturbations,
        'horizon': runner.horizon, 'parallel': runner.parallel, 'world': info.world,
        'model_digest': info.model_digest, 'fidelity': info.fidelity, 'renderer': info.renderer}
    free = {'policy', 'catalogue', 'rollouts'}  # these are names, and more rollouts are welcome
    if SEARCHERS[settings.searcher].learns:
        from robomd_ros.diagnosis import ppo

        ppo.check_budget(
            settings.rollouts - settings.confirm, settings.control, runner.parallel)
    else:  # no rewards and episodes, and no environments with rollouts of their own
        free |= {'parallel', 'reward', 'max_perturbations'}
    with Ledger(settings.out, recorded, recorded.keys() - free, command, versions) as ledger:
        found = _finished(settings.out / MAP_FILE, ledger)
        if found is None:
            session = _Session(settings, catalogue, ledger, runner, on_progress, should_stop)
            found = session.run()
        return found


def _finished(path: Path, ledger: Ledger) -> FailureMap | None:
    """Return the map in the file if it is that of the ledger, and nothing more is to come."""
    try:
        found = FailureMap.from_json(path.read_text('utf-8'))
    except (OSError, ValueError):  # UserError is a ValueError
        return None
    same = found.settings == ledger.settings and found.budget['done'] == sum(
        ledger.tally().values())
    return found if same and found.stopped else None


class _Session:
    """One session of a diagnosis: search, confirmation, and the failure map on the way."""

    def __init__(self, settings: Settings, catalogue: Catalogue, ledger: Ledger,
                 runner: PolicyRunner, on_progress: Callable[[Progress], None],
                 should_stop: Callable[[], bool]) -> None:
        self._settings, self._catalogue, self._ledger = settings, catalogue, ledger
        self._bare = runner
        self._runner = WatchedRunner(LedgeredRunner(runner, ledger), self._note, should_stop)
        self._on_progress, self._should_stop = on_progress, should_stop
        self._mutex = threading.RLock()
        self._suspicion = read_suspicion(settings.out, catalogue, ledger.settings)
        self._found: dict[str, Any] = {}  # columns and tables of the map that are not the ledger's
        self._stopped = ''
        self._done = -1
        self._last: FailureMap | None = None  # once there is nothing more to come

    def run(self) -> FailureMap:
        """Search and confirm; write the map whatever happens."""
        self._tell()
        try:
            ended_early = self._search()
            self._confirm()
            self._stopped = ended_early or 'All rollouts that were asked for are done.'
        except BaseException:
            with suppress(LedgerError):  # the first error is the one to tell
                self._last = self._write()
            raise
        self._last = self._write()
        return self._last

    def _search(self) -> str:
        """Run the searcher to its end; return why it ended early, or nothing."""
        settings = self._settings
        SEARCHERS[settings.searcher].search(Search(
            self._catalogue, self._runner, settings.rollouts - settings.confirm, settings.control,
            settings.seed, settings.out / 'checkpoints', self._ledger.condition,
            partial(self._take, 'search_mass'), partial(self._take, 'estimate'), self._settled,
            self._suspect, 'confirmation' if settings.fixed else 'discovery', settings.reward,
            settings.max_perturbations))
        searched = sum(end.trial < confirmation.FIRST_TRIAL for end in self._ledger.ends())
        if searched >= settings.rollouts - settings.confirm or not self._settled():
            return ''
        return (f'The {settings.settle_top} that fail most are settled, to within '
                f'{100 * settings.settle_within:.0f} points of a failure rate, before the budget '
                'was spent.')

    def _confirm(self) -> None:
        """Measure on fresh trials what the search suspects: what fails together, then alone."""
        settings, left = self._settings, self._settings.confirm
        if not left:
            return
        evidence = self._evidence()
        estimate = self._found.get('estimate')
        stacks = combinations.Combinations(
            self._catalogue, self._runner, settings.seed, evidence,
            confirmation.suspected(evidence, self._catalogue, estimate))
        left -= stacks.run(left // 3)
        self._take('minimal_sets', stacks.minimal_sets)
        self._take('interactions', stacks.interactions)
        names = confirmation.suspects(evidence, self._catalogue, estimate, left)
        for _ in self._runner.run(confirmation.requests(
                self._catalogue, names, settings.seed, left, stacks.asked)):
            pass

    def _evidence(self) -> Evidence:
        """Return the evidence of the search, without that of confirmation."""
        return Evidence([
            end for end in self._ledger.ends() if end.trial < confirmation.FIRST_TRIAL])

    def _settled(self) -> bool:
        settings = self._settings
        if settings.stop != 'settled':
            return False
        evidence = self._evidence()
        tried = [evidence.discovered((name,)) for name in self._catalogue.names]
        rates = [(sum(failed.values()), len(failed)) for failed in tried]
        return settled(rates, settings.settle_top, settings.settle_within)

    def _suspect(self) -> Suspicion:
        if self._suspicion is None:
            self._suspicion = measure_suspicion(
                self._settings.out, self._catalogue, self._bare, self._ledger.settings,
                self._ledger.versions, self._ledger.command(), self._tell_measured)
        return self._suspicion

    def _tell_measured(self, done: int) -> None:
        """Tell of how many perturbations the suspicion is measured."""
        with self._mutex:
            self._on_progress(self._progress(
                'The policy is asked what it would do under each change; '
                f'{done} of {len(self._catalogue)} are done.'))

    def _note(self) -> None:
        """Take in what has ended."""
        with self._mutex:
            before = self._done
            if self._tell() and self._done // MAP_EVERY > before // MAP_EVERY:
                self._write()

    def _take(self, name: str, value: Any) -> None:
        with self._mutex:
            self._found[name] = value
            self._write()

    def _map(self) -> FailureMap:
        with self._mutex:
            if self._last is not None:  # the ledger may be closed
                return self._last
            known = self._suspicion
            suspicion = None if known is None else [
                None if math.isnan(known.deviation[name]) else known.deviation[name]
                for name in self._catalogue.names]
            return failure_map(self._ledger, self._catalogue, self._stopped,
                               suspicion=suspicion, **self._found)

    def _write(self) -> FailureMap:
        with self._mutex:
            found = self._map()
            write_whole(self._settings.out / MAP_FILE, found.to_json().encode())
            return found

    def _tell(self) -> bool:
        """Tell how far it is; return False, having told nothing, if it is as far as before."""
        progress = self._progress()
        before, self._done = self._done, progress.done
        if self._done > before:  # else the rollout is an earlier session's
            self._on_progress(progress)
        return self._done > before

    def _progress(self, detail: str = '') -> Progress:
        tally = self._ledger.tally()
        return Progress(
            sum(tally.values()), self._settings.rollouts, tally.get('failure', 0),
            tally.get('invalid', 0), self._map, detail)
