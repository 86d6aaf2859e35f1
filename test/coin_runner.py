# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A runner that tosses coins instead of moving robots: fast, and a function of its requests."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import multiprocessing
from pathlib import Path
import random
import time
from typing import Any
import zlib

import numpy as np
from robomd_ros.conditions import Catalogue, Condition, Perturbation
from robomd_ros.diagnosis.environment import Search
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.run import diagnose, Settings
from robomd_ros.diagnosis.suspicion import Suspicion
from robomd_ros.rollouts.protocol import (
    Deviation,
    RolloutRequest,
    RolloutResult,
    RolloutRunner,
)
from robomd_ros.worlds.protocol import Outcome, WorldInfo

HORIZON = 100
INFO = WorldInfo('mujoco', 'lift', 'c' * 64, 'fast', 'egl', HORIZON, 'lift the cube')
COLORS = {'red': (1.0, 0.0, 0.0), 'green': (0.0, 1.0, 0.0), 'blue': (0.0, 0.0, 1.0)}
CATALOGUE = Catalogue('lift', '/catalogue.yaml', 'a' * 64, tuple(
    Perturbation(f'{color}_{part}', f'{part}.color', value, f'Change {part} color to {color}')
    for part in ('cube', 'table') for color, value in COLORS.items()))


def failure_rate(condition: Condition) -> float:
    """Return how often a condition fails: a red table often, a green one always, others seldom."""
    names = condition.names
    return 1.0 if 'green_table' in names else 0.7 if 'red_table' in names else 0.1


def a_picture(condition: Condition, trial: int = 0) -> np.ndarray:
    """Return a scene: floor, cube and table in their colours, the cube where the trial puts it."""
    picture = np.full((84, 84, 3), 128, np.uint8)
    colors = {p.part: 255 * np.array(p.value) for p in condition.perturbations}
    picture[40:] = colors.get('table', 90)
    picture[30:50, 20 + trial % 20:][:, :20] = colors.get('cube', 60)
    return picture


class CoinRunner:
    """
    Runs rollouts as GraphRunner does: takes one request ahead, yields in any order.

    ran: the keys, as they ended. before: called with each request, may raise. log: a file to which
    each key is added when its rollout begins.
    """

    horizon = HORIZON

    def __init__(self, parallel: int = 1, before: Callable[[RolloutRequest], None] | None = None,
                 log: Path | None = None, seconds: float = 0.0) -> None:
        self.parallel = parallel
        self.ran: list[str] = []
        self._before = before or (lambda request: None)
        self._log = log
        self._seconds = seconds

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """Yield the results, the last taken first."""
        waiting: list[RolloutRequest] = []
        for request in requests:
            waiting.append(request)
            if len(waiting) > self.parallel:
                yield self._toss(waiting.pop())
        while waiting:
            yield self._toss(waiting.pop())

    def deviations(self, conditions: Sequence[Condition], seed: int,
                   on_progress: Callable[[int], None]) -> list[Deviation]:
        """Return made-up numbers, which a condition's failure rate and its name are in."""
        found = []
        for done, condition in enumerate(conditions, start=1):
            odd = zlib.crc32(f'{seed} {condition.label}'.encode()) / 2**32
            made_up = (failure_rate(condition) + 0.1 * odd) * bool(len(condition))
            found.append(Deviation(made_up, made_up / 2, 1, 1))
            on_progress(done)
        return found

    def _toss(self, request: RolloutRequest) -> RolloutResult:
        self._before(request)
        if self._log:
            with self._log.open('a') as log:
                log.write(f'{request.key}\n')
        time.sleep(self._seconds)
        generator = np.random.default_rng(
            [request.seed, request.trial, zlib.crc32(request.condition.label.encode())])
        failed = generator.random() < failure_rate(request.condition)
        outcome = self.outcome(request, failed)
        steps = HORIZON if outcome.verdict == 'failure' else int(generator.integers(30, 60))
        self.ran.append(request.key)
        picture = a_picture(request.condition, request.trial)
        return RolloutResult(request, outcome, steps, 0.01, picture, picture // 2, 'coin')

    def outcome(self, request: RolloutRequest, failed: bool) -> Outcome:
        """Return what the coin says."""
        return Outcome('failure' if failed else 'success', source='coin')


def settings(out: Path, **others: Any) -> Settings:
    """Return the settings of a diagnosis."""
    asked = {'task': 'lift', 'policy': 'builtin:lift', 'catalogue': '/catalogue.yaml',
             'searcher': 'sweep', 'rollouts': 40, 'seed': 0, 'out': out}
    return Settings(**asked | others)


def a_diagnosis(asked: Settings, runner: CoinRunner, **others: Any) -> FailureMap:
    """Diagnose the coins."""
    given = {
        'catalogue': CATALOGUE, 'info': INFO, 'policy_digest': 'b' * 64,
        'versions': {'robomd_ros': '0.1.0'}, 'command': 'robomd diagnose',
        'on_progress': lambda progress: None, 'should_stop': lambda: False}
    return diagnose(asked, runner=runner, **given | others)


def a_search(runner: RolloutRunner, rollouts: int, control: int, **others: Any) -> Search:
    """Return what a searcher is given, without a ledger."""
    given = {
        'catalogue': CATALOGUE, 'seed': 0, 'checkpoints': Path('/nowhere'),
        'recorded': lambda key: None, 'on_mass': lambda mass: None,
        'on_estimate': lambda estimate: None, 'settled': lambda: False,
        'suspicion': lambda: Suspicion(
            dict.fromkeys(CATALOGUE.names, 0.1), dict.fromkeys(CATALOGUE.names, 0.1),
            1, 1)}
    return Search(runner=runner, rollouts=rollouts, control=control, **given | others)


def read_map(out: Path) -> FailureMap:
    """Return the map in the directory's file."""
    return FailureMap.from_json((out / 'failure_map.json').read_text())


def killed_at_random(target: Callable[[Path, Path], None], out: Path, log: Path, kills: int,
                     longest: float) -> Iterator[list[str]]:
    """
    Run target(out, log) in a process of its own so often, and kill it.

    A kill comes a random time, at most longest seconds, after the process has begun a rollout.
    Yield the keys that the process has added to the log.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([
        'cv2', 'pytest', 'robomd_ros.diagnosis.ppo', 'statsmodels.stats.proportion'])
    moments = random.Random(0)
    log.touch()
    for _ in range(kills):
        begun = len(log.read_text().split())
        process = context.Process(target=target, args=(out, log))
        process.start()
        while process.is_alive() and len(log.read_text().split()) == begun:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, longest))
        process.kill()
        process.join()
        assert process.exitcode == -9, 'it was faster; let it run more rollouts'
        yield log.read_text().split()[begun:]
