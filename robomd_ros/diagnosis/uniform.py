# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `random`: every rollout of a perturbation drawn at random, all equally likely."""

from collections import Counter
from collections.abc import Iterator
from itertools import count

from robomd_ros.diagnosis.batches import make_generator, make_request, SIZE
from robomd_ros.diagnosis.environment import Search
from robomd_ros.diagnosis.sweep import with_control
from robomd_ros.rollouts.protocol import RolloutRequest


def search(search: Search) -> None:
    """Run the search; as what is tried does not depend on what was found, in one stream."""
    for _ in search.runner.run(requests(search)):
        pass


def requests(search: Search) -> Iterator[RolloutRequest]:
    """Yield the requests until the budget's end or settled, control rollouts in between."""
    yield from with_control(search, _drawn(search))


def _drawn(search: Search) -> Iterator[RolloutRequest]:
    perturbations = len(search.catalogue)
    asked: Counter[int] = Counter()
    for batch in count():
        if search.settled():
            return
        drawn = make_generator(search, batch).integers(perturbations, size=SIZE).tolist()
        for k, place in enumerate(drawn):
            yield make_request(search, 'random', SIZE * batch + k, place, asked[place],
                               1 / perturbations)
            asked[place] += 1
