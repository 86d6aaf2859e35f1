# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""WatchedRunner: rollouts that somebody watches and may stop."""

from collections.abc import Callable, Iterable, Iterator

from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult, RolloutRunner, RunnerError


class DiagnosisCanceled(RunnerError):  # noqa: N818, what happened is no error
    """The diagnosis was canceled; what has ended is kept."""


class WatchedRunner:
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
