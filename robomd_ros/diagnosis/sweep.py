# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `sweep`: every perturbation alone, and nominal, equally often."""

from collections.abc import Iterator
from itertools import count, islice

from robomd_ros.conditions import Catalogue, Condition
from robomd_ros.diagnosis.environment import control_request, Search
from robomd_ros.rollouts.protocol import RolloutRequest


def search(search: Search) -> None:
    """
    Run the sweep; it has no search mass.

    What is tried next does not depend on what was found, so the requests go to the runner as one
    stream, which keeps all its executors busy, and not one by one through a SearchEnv.
    """
    for _ in search.runner.run(islice(requests(search.catalogue, search.seed), search.rollouts)):
        pass


def requests(catalogue: Catalogue, seed: int) -> Iterator[RolloutRequest]:
    """
    Yield the sweep's requests without end: trial by trial, nominal first, in catalogue order.

    So every condition sees the same initial states, and wherever the sweep ends no condition is
    more than one rollout ahead of another.
    """
    for trial in count():
        yield control_request(seed, trial)
        for perturbation in catalogue:
            yield RolloutRequest(
                f'sweep/{perturbation.name}/{trial}', Condition((perturbation,)), seed, trial)
