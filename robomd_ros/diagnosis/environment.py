# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""SearchEnv: the search for failures as a Gymnasium environment (the paper's Sec. III-A)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from robomd_ros.conditions import Catalogue, Condition, NOMINAL
from robomd_ros.diagnosis.suspicion import Suspicion
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult, RolloutRunner

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]  # what SearchEnv.step returns

C_FAILURE = 1.0
C_SUCCESS = 0.5
MAX_PERTURBATIONS = 5

# How long a success took, as a share of the horizon -> the reward for it.
REWARDS: dict[str, Callable[[float], float]] = {
    'paper': lambda t: -C_SUCCESS * t,
    'flat': lambda t: -C_SUCCESS,
    'eq1_direction': lambda t: -C_SUCCESS / t,
}


@dataclass(frozen=True)
class Search:
    """
    What a searcher is given.

    runner: answers a key that has ended before without running it again.
    rollouts: the budget, of which control are of the nominal condition: control/0, control/1, ...
    checkpoints: a directory of its own. recorded: key -> the names of the condition under which
    that rollout has ended, None if it has not; runs nothing.
    on_mass, on_estimate: to be called, whenever it has changed, with the search mass, and with the
    failure rates that the searcher's model expects; one number a perturbation in the catalogue's
    order. settled: whether to end before the budget does; to be asked now and then.
    suspicion: measures it if that has not been done. purpose: of the searcher's rollouts.
    reward: a name of REWARDS. max_perturbations: on top of each other in an episode.
    """

    catalogue: Catalogue
    runner: RolloutRunner
    rollouts: int
    control: int
    seed: int
    checkpoints: Path
    recorded: Callable[[str], tuple[str, ...] | None]
    on_mass: Callable[[np.ndarray], None]
    on_estimate: Callable[[np.ndarray], None]
    settled: Callable[[], bool]
    suspicion: Callable[[], Suspicion]
    purpose: str = 'discovery'
    reward: str = 'paper'
    max_perturbations: int = MAX_PERTURBATIONS


def control_request(seed: int, trial: int) -> RolloutRequest:
    """Return the request for a rollout of the nominal condition."""
    return RolloutRequest(f'control/{trial}', NOMINAL, seed, trial)


def run_one(runner: RolloutRunner, request: RolloutRequest) -> RolloutResult:
    """Return the result of the one rollout."""
    result, = runner.run([request])
    return result


class SearchEnv(gymnasium.Env[np.ndarray, np.int64]):
    """
    A step applies one more perturbation and runs one rollout of the policy under test.

    Action: index of a perturbation in the catalogue. Observation: (84, 84, 3) uint8 RGB, the scene
    after the perturbation was applied; at reset the nominal scene, as the first control rollout
    showed it. Two perturbations of one slot overwrite each other, others add up.
    Reward: 1 for a failure, which terminates the episode; -0.5 t for a success, t being the steps
    it took as a share of the horizon, or as REWARDS say. An episode is truncated after
    max_perturbations perturbations, and after an invalid rollout, whose reward is 0.
    Every rollout starts from an initial state of its own, which for rollout k is that of control
    rollout k. No two conditions share one: what one condition did from it would tell how another
    is going to do, and rates of what was chosen in that light would have no honest interval.
    What the runner raises passes through.
    rollouts: how many it has run; control rollouts are not among them.
    """

    metadata: dict[str, Any] = {'render_modes': []}

    def __init__(
        self,
        catalogue: Catalogue,
        runner: RolloutRunner,
        seed: int = 0,
        reward: str = 'paper',
        max_perturbations: int = MAX_PERTURBATIONS,
        key: Callable[[int], str] = lambda number: f'search/{number}',
        trial: Callable[[int], int] = lambda number: number,
    ) -> None:
        """
        Prepare the search; nothing is run before reset.

        seed: of the rollouts. key, trial: of the environment's rollout 0, 1, 2, ...
        """
        self.action_space = gymnasium.spaces.Discrete(len(catalogue))
        self.observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 3), np.uint8)
        self.catalogue = catalogue
        self._runner = runner
        self._seed = seed
        self._reward = REWARDS[reward]
        self._max_perturbations = max_perturbations
        self._key, self._trial = key, trial
        self.rollouts = 0
        self._applied = 0
        self._condition = NOMINAL
        self._nominal: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return to the nominal scene; with a seed, begin anew with that seed from rollout 0."""
        super().reset(seed=seed)
        if seed is not None:
            self._seed, self.rollouts, self._nominal = seed, 0, None
        self._condition, self._applied = NOMINAL, 0
        if self._nominal is None:
            request = control_request(self._seed, 0)
            self._nominal = run_one(self._runner, request).first_frame
        return self._nominal.copy(), {'condition': []}

    def step(self, action: np.int64 | int) -> Step:
        """Apply the perturbation and run the policy under test; info says what became of it."""
        return self.take(int(action), None)

    def take(self, action: int, probability: float | None) -> Step:
        """Do as step does; probability: with which the action was chosen, for the ledger."""
        perturbation = self.catalogue.perturbations[action]
        return self._advance(self._condition.with_perturbation(perturbation), probability)

    def repeat(self, names: tuple[str, ...]) -> Step:
        """Do as the step did that led to the condition of those names."""
        return self._advance(self.catalogue.condition(names))

    def _advance(self, condition: Condition, probability: float | None = None) -> Step:
        request = RolloutRequest(
            self._key(self.rollouts), condition, self._seed, self._trial(self.rollouts),
            'discovery', probability)
        result = run_one(self._runner, request)
        self.rollouts += 1
        self._applied += 1
        self._condition = condition
        verdict = result.outcome.verdict
        failed, invalid = verdict == 'failure', verdict == 'invalid'
        truncated = not failed and (invalid or self._applied >= self._max_perturbations)
        info = {'key': request.key, 'condition': list(condition.names), 'verdict': verdict,
                'reason': result.outcome.reason, 'steps': result.steps}
        return result.first_frame, self._reward_of(result), failed, truncated, info

    def _reward_of(self, result: RolloutResult) -> float:
        if result.outcome.verdict == 'invalid':
            return 0.0
        if result.outcome.verdict == 'failure':
            return C_FAILURE
        return self._reward(max(result.steps, 1) / self._runner.horizon)
