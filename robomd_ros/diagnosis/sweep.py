# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `sweep`: every perturbation alone, and nominal, equally often."""

from collections.abc import Iterator
from itertools import count, takewhile

from robomd_ros.conditions import Condition
from robomd_ros.diagnosis.environment import control_request, Search
from robomd_ros.rollouts.protocol import RolloutRequest


def search(search: Search) -> None:
    """
    Run the sweep; it has no search mass.

    What is tried next does not depend on what was found, so the requests go to the runner as one
    stream, which keeps all its executors busy, and not one by one through a SearchEnv.
    """
    for _ in search.runner.run(requests(search)):
        pass


def requests(search: Search) -> Iterator[RolloutRequest]:
    """
    Yield the sweep's requests: trial by trial, in catalogue order, until its end or settled.

    So every condition sees the same initial states, and wherever the sweep ends no perturbation is
    more than one rollout ahead of another. Control rollouts come in between.
    """
    yield from with_control(search, (
        RolloutRequest(f'sweep/{perturbation.name}/{trial}', Condition((perturbation,)),
                       search.seed, trial, search.purpose, 1.0)
        for trial in takewhile(lambda trial: not search.settled(), count())
        for perturbation in search.catalogue))


def with_control(search: Search, others: Iterator[RolloutRequest]) -> Iterator[RolloutRequest]:
    """Yield the others, as many as the budget has room for, and control rollouts in between."""
    room = search.rollouts - search.control
    controls = 0
    for place in range(room + 1):
        while controls < search.control and controls * room <= place * search.control:
            yield control_request(search.seed, controls)
            controls += 1
        request = next(others, None) if place < room else None
        if request is None:
            return
        yield request
