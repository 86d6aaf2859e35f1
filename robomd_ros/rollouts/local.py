# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""LocalRunner: rollouts in this process."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from robomd_ros.conditions import Condition
from robomd_ros.policies.protocol import Policy
from robomd_ros.rollouts.deviation import measure_deviations
from robomd_ros.rollouts.protocol import Deviation, RolloutRequest, RolloutResult
from robomd_ros.rollouts.rollout import RolloutCanceled, run_rollout
from robomd_ros.worlds.protocol import World


class LocalRunner:
    """
    Runs rollouts one after another in the thread that calls it.

    That has to be the thread the world was made in, to which its OpenGL context belongs.
    """

    parallel = 1

    def __init__(self, world: World, policy: Policy,
                 should_stop: Callable[[], bool] = lambda: False) -> None:
        """
        Run rollouts of the policy in the world.

        should_stop: asked after every control step; on True the rollout is canceled.
        """
        self.horizon = world.info.horizon
        self._should_stop = should_stop
        self._world = world
        self._policy = policy

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """
        Run the requests and yield the results in their order.

        Raises UserError if the world cannot be set to a condition, and RolloutCanceled.
        """
        for request in requests:
            result = run_rollout(self._world, self._policy, request,
                                 on_step=lambda _: self._should_stop())
            if result.outcome.verdict == 'invalid' and self._should_stop():
                # What asks for the end, a Ctrl-C for one, may well have broken the policy.
                raise RolloutCanceled(f'The rollout {request.key} was canceled.')
            yield result

    def deviations(self, conditions: Sequence[Condition], seed: int,
                   on_progress: Callable[[int], None] = lambda done: None) -> list[Deviation]:
        """
        Measure how far each condition moves the policy's actions, without a rollout under it.

        on_progress: called with how many conditions are done. Raises what measure_deviations does.
        """
        return measure_deviations(
            self._world, self._policy, conditions, seed, on_progress, self._should_stop)
