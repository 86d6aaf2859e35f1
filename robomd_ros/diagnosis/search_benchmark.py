# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The benchmark of searchers: what each has found after so many rollouts, over several seeds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
import json
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis.environment import MAX_PERTURBATIONS, Search
from robomd_ros.diagnosis.measures import judge
from robomd_ros.diagnosis.pool import NOMINAL, Pool, PoolRunner
from robomd_ros.diagnosis.run import check_settings, SEARCHERS, Settings
from robomd_ros.diagnosis.statistics import compare, confidence_sequence, holm
from robomd_ros.diagnosis.suspicion import measure_suspicion, read_suspicion, Suspicion
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import Ledger, LedgeredRunner, write_whole
from robomd_ros.rollouts.protocol import (
    PolicyRunner,
    RolloutRequest,
    RolloutResult,
    RolloutRunner,
)
from robomd_ros.worlds.protocol import WorldInfo

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Benchmark:
    """
    What is asked for.

    task, policy, catalogue: of the policy under test. searchers: names. rollouts: the budget of
    each run, a tenth of it, and at least 20, control rollouts; nothing is confirmed. seeds: how
    many, from 0. out: the directory for results. replayed: whether searchers are shown recorded
    rollouts rather than new ones. versions: of what the results depend on.
    """

    task: str
    policy: str
    catalogue: Catalogue
    searchers: tuple[str, ...]
    rollouts: int
    seeds: int
    out: Path
    replayed: bool
    versions: dict[str, str]

    def settings(self, searcher: str, seed: int) -> Settings:
        """Return the settings of one run; its out is a directory of its own."""
        return Settings(
            self.task, self.policy, self.catalogue.path, searcher, self.rollouts, seed,
            self.out / 'live' / f'{searcher}-{seed}', confirm_share=0.0,
            max_perturbations=1 if self.replayed else MAX_PERTURBATIONS)

    def check(self) -> None:
        """Raise UserError for what cannot be used."""
        for name in self.searchers:
            check_settings(replace(self.settings(name, 0), out=self.out))
        if not self.searchers or len(set(self.searchers)) < len(self.searchers):
            raise UserError('searchers must be one or more, each named once, as in ppo,sweep.')
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise UserError(f'seeds must be a whole number from 1 to {MOST_SEEDS}, not '
                            f'{self.seeds}.')
        room = self.rollouts - self.settings('sweep', 0).control
        if room < len(self.catalogue):
            raise UserError(
                f'{self.rollouts} rollouts leave {max(0, room)} for {len(self.catalogue)} '
                'perturbations; ask for more, so that each can be tried once.')


class Judge:
    """
    Says how right a searcher is, by the true rates.

    rates: (N,), in catalogue order. nominal: the nominal scene's. modes: (N,) bool, the failure
    modes: what fails at least 10 points more often than nominal on the same trials, by exact
    McNemar tests with Holm's adjustment.
    """

    def __init__(self, truth: Pool, catalogue: Catalogue) -> None:
        """
        Take the truth's rates.

        Raises UserError if they are of another catalogue, or there is no ranking to find.
        """
        truth.check(catalogue)
        failures = [truth.failures(name) for name in catalogue.names]
        nominal = truth.failures(NOMINAL)
        self.rates = np.array([np.mean(list(each.values())) for each in failures])
        self.nominal = float(np.mean(list(nominal.values())))
        compared = [compare(each, nominal) for each in failures]
        adjusted = holm([each.p for each in compared])
        self.modes = np.array([
            replace(each, p_holm=p).verdict == 'failure mode'
            for each, p in zip(compared, adjusted, strict=True)])
        if not judge([0.0] * len(catalogue), self.rates, 1 - self.rates).judged.any():
            raise UserError('The recorded rollouts all ended alike, so that there is no ranking '
                            'to find; give those of another policy or catalogue.')

    def accuracy(self, scores: Sequence[float] | np.ndarray) -> float:
        """
        Return the pair accuracy to be expected of the scores, (N,), as outcomes are random.

        The sum over i != j of p_i (1 - p_j) [s_i > s_j, half if equal] over that of
        p_i (1 - p_j): the paper's Tables I, III and IV, without the luck of single outcomes.
        """
        found = judge(list(scores), self.rates, 1 - self.rates)
        return float(found.right.sum() / found.judged.sum())

    @cached_property
    def ceiling(self) -> float:
        """Return the pair accuracy of the true rates themselves."""
        return self.accuracy(self.rates)

    def share(self, accuracy: float) -> float:
        """Return how far from chance to the ceiling that is; 1 at the ceiling."""
        return (accuracy - 0.5) / (self.ceiling - 0.5)


@dataclass(frozen=True)
class Run:
    """
    What one searcher had found with one seed, after 0, 1, 2, ... rollouts.

    accuracy: pair accuracy of its estimate of the failure rates; of a searcher that has no model,
    of (failures + 1) / (n + 2) of each perturbation alone. by_mass: of its search mass, None if it
    has none. modes: perturbations whose anytime-valid interval lies above nominal's and that are
    failure modes; false: those that are none.
    seconds: wall time that was the searcher's own, without rollouts and without this judgement.
    """

    searcher: str
    seed: int
    accuracy: tuple[float, ...]
    by_mass: tuple[float, ...] | None
    modes: tuple[int, ...]
    false: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Ground:
    """Where a search is run: those parts of a Search that depend on it, see there."""

    runner: RolloutRunner
    suspicion: Callable[[], Suspicion]


Opener = Callable[[Settings], AbstractContextManager[Ground]]


def replayed(pool: Pool) -> Opener:
    """Return who opens grounds on which a pool is replayed."""
    @contextmanager
    def opened(settings: Settings) -> Iterator[Ground]:
        def suspicion() -> Suspicion:
            if pool.suspicion is None:
                raise UserError(
                    f'The searcher {settings.searcher} needs the suspicion, which the pool has '
                    'not; run robomd suspect into the folder of the sweep, make the pool again, '
                    'or leave the searcher out.')
            return pool.suspicion

        yield Ground(PoolRunner(pool), suspicion)
    return opened


def live(runner: PolicyRunner, catalogue: Catalogue, info: WorldInfo, policy_digest: str,
         versions: dict[str, str], command: str) -> Opener:
    """Return who opens grounds on which the runner runs rollouts, each kept in a ledger."""
    @contextmanager
    def opened(settings: Settings) -> Iterator[Ground]:
        recorded = {
            'task': settings.task, 'policy': settings.policy, 'policy_digest': policy_digest,
            'catalogue_digest': catalogue.digest, 'searcher': settings.searcher,
            'rollouts': settings.rollouts, 'seed': settings.seed,
            'max_perturbations': settings.max_perturbations, 'horizon': runner.horizon,
            'world': info.world, 'model_digest': info.model_digest, 'fidelity': info.fidelity,
            'renderer': info.renderer}

        def suspicion() -> Suspicion:
            return read_suspicion(settings.out, catalogue, recorded) or measure_suspicion(
                settings.out, catalogue, runner, recorded, versions, command)

        with Ledger(settings.out, recorded, recorded.keys() - {'policy'}, command,
                    versions) as ledger:
            yield Ground(LedgeredRunner(runner, ledger), suspicion)
    return opened


def run_benchmark(asked: Benchmark, truth: Pool, opener: Opener,
                  on_progress: Callable[[int], None] = lambda rollouts: None) -> list[Run]:
    """
    Return every run of every searcher, going on from those that are in the directory.

    truth: whose rates are taken as the true ones. on_progress: called with a number of rollouts
    when so many more have ended.
    Raises UserError for what cannot be used, as for a directory with runs of another benchmark,
    and what the runner raises.
    """
    asked.check()
    judged = Judge(truth, asked.catalogue)
    runs = []
    # Seed by seed, so that all searchers have got equally far when somebody looks.
    for seed in range(asked.seeds):
        for searcher in asked.searchers:
            about = _about(asked, truth, searcher, seed)
            path = asked.out / 'runs' / f'{searcher}-{seed}.json'
            run = _read(path, about)
            if run is not None:
                on_progress(asked.rollouts)
            else:
                with opener(asked.settings(searcher, seed)) as ground:
                    run = _run(asked, searcher, seed, ground, judged, on_progress)
                text = json.dumps({'settings': about, 'run': asdict(run)}) + '\n'
                write_whole(path, text.encode())
            runs.append(run)
    return runs


def _about(asked: Benchmark, truth: Pool, searcher: str, seed: int) -> dict[str, Any]:
    settings = asked.settings(searcher, seed)
    return {'task': asked.task, 'policy': asked.policy, 'rollouts': asked.rollouts,
            'catalogue': asked.catalogue.digest, 'replayed': asked.replayed,
            'truth': truth.digest, 'control': settings.control,
            'max_perturbations': settings.max_perturbations, 'versions': asked.versions,
            'searcher': searcher, 'seed': seed}


def _read(path: Path, about: dict[str, Any]) -> Run | None:
    """Return the run in the file; None if there is none that is whole."""
    try:
        content = json.loads(path.read_text('utf-8'))
        values: dict[str, Any] = {
            field.name: content['run'][field.name] for field in fields(Run)}
        run = Run(**values | {
            name: tuple(value) for name, value in values.items() if isinstance(value, list)})
        before = content['settings']
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for name, value in about.items():
        if before.get(name) != value:
            raise UserError(f'{path.parents[1]} holds runs of a benchmark with another {name}; '
                            'give another out.')
    return run


def _run(asked: Benchmark, searcher: str, seed: int, ground: Ground, judged: Judge,
         on_progress: Callable[[int], None]) -> Run:
    settings = asked.settings(searcher, seed)
    watch = _Watch(ground.runner, asked.catalogue, judged, asked.rollouts, on_progress)
    # It is told of no earlier session, so that it thinks again, and says again what it thinks, of
    # all that the runner may answer from a ledger.
    with tempfile.TemporaryDirectory() as checkpoints:
        watch.start()
        SEARCHERS[searcher].search(Search(
            asked.catalogue, watch, settings.rollouts, settings.control, seed, Path(checkpoints),
            lambda key: None, watch.take_mass, watch.take_estimate, lambda: False,
            lambda: watch.without_searcher(ground.suspicion),
            'confirmation' if settings.fixed else 'discovery', settings.reward,
            settings.max_perturbations))
        return watch.finish(searcher, seed)


class _Watch:
    """
    A runner that watches a search: its time, and after each rollout what it has found.

    A key that has ended is answered again, by the other runner, and not counted again.
    """

    def __init__(self, runner: RolloutRunner, catalogue: Catalogue, judged: Judge, rollouts: int,
                 on_progress: Callable[[int], None]) -> None:
        self.parallel, self.horizon = runner.parallel, runner.horizon
        self._runner, self._judge = runner, judged
        self._rollouts, self._on_progress = rollouts, on_progress
        self._places = {name: place for place, name in enumerate(catalogue.names)}
        self._failures = np.zeros(len(catalogue), int)
        self._n = np.zeros(len(catalogue), int)
        self._nominal = [0, 0]  # failures, n
        self._mass: np.ndarray | None = None
        self._estimate: np.ndarray | None = None
        self._ended: set[str] = set()  # keys
        self._points: list[tuple[float, float, int, int]] = []
        self._seconds = 0.0  # of the searcher
        self._since = 0.0    # when it last got its turn

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """Run the requests, noting before each what has been found until then."""
        self._pause()
        for result in self._runner.run(self._asked(requests)):
            self._count(result)
            self.start()
            yield result
            self._pause()
        self.start()

    def start(self) -> None:
        """Begin to count time as the searcher's."""
        self._since = time.perf_counter()

    def take_mass(self, mass: np.ndarray) -> None:
        """Take the search mass."""
        self._mass = np.array(mass, float)

    def take_estimate(self, estimate: np.ndarray) -> None:
        """Take the failure rates the searcher expects."""
        self._estimate = np.array(estimate, float)

    def without_searcher(self, measure: Callable[[], Suspicion]) -> Suspicion:
        """Return what is measured, in time that is not the searcher's."""
        self._pause()
        found = measure()
        self.start()
        return found

    def finish(self, searcher: str, seed: int) -> Run:
        """Return what was found; a search that ended early has found what it had at its end."""
        self._pause()
        self._note()
        self._points += [self._points[-1]] * (self._rollouts + 1 - len(self._points))
        accuracy, by_mass, modes, false = zip(*self._points, strict=True)
        return Run(searcher, seed, accuracy, None if self._mass is None else by_mass, modes, false,
                   self._seconds)

    def _pause(self) -> None:
        self._seconds += time.perf_counter() - self._since

    def _asked(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutRequest]:
        self.start()
        for request in requests:
            self._pause()
            if request.key not in self._ended:
                self._note()
                if len(self._ended) >= self._rollouts:
                    raise RuntimeError(f'more than the {self._rollouts} rollouts of the budget')
            yield request
            self.start()
        self._pause()

    def _note(self) -> None:
        if len(self._points) > len(self._ended):
            return
        scores = self._estimate
        if scores is None:
            scores = (self._failures + 1) / (self._n + 2)
        above = self._above_nominal()
        modes = int((above & self._judge.modes).sum())
        by_mass = 0.5 if self._mass is None else self._judge.accuracy(self._mass)
        self._points.append((self._judge.accuracy(scores), by_mass, modes,
                             int(above.sum()) - modes))

    def _above_nominal(self) -> np.ndarray:
        """Return which perturbations' anytime-valid intervals lie above nominal's, (N,) bool."""
        _, high = confidence_sequence(*self._nominal)
        return np.array([confidence_sequence(failures, n)[0] > high for failures, n in zip(
            self._failures.tolist(), self._n.tolist(), strict=True)])

    def _count(self, result: RolloutResult) -> None:
        if result.request.key in self._ended:
            return
        self._note()  # if the runner has taken requests ahead, this is the first chance
        self._ended.add(result.request.key)
        self._on_progress(1)
        names, verdict = result.request.condition.names, result.outcome.verdict
        if verdict == 'invalid' or len(names) > 1:
            return
        failed = int(verdict == 'failure')
        if names:
            self._failures[self._places[names[0]]] += failed
            self._n[self._places[names[0]]] += 1
        else:
            self._nominal = [self._nominal[0] + failed, self._nominal[1] + 1]
