# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Confirmation: what the search suspects is measured on trials it has never seen."""

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import count, islice
import math

from robomd_ros.conditions import Catalogue, Condition, NOMINAL
from robomd_ros.diagnosis.evidence import Evidence
from robomd_ros.diagnosis.statistics import CONFIDENCE, Failures, MARGIN
from robomd_ros.rollouts.protocol import RolloutRequest

FIRST_TRIAL = 1_000_000  # beyond all trials of any search
SPARE = 2  # rollouts a suspect beyond those that must all tell it from nominal


def suspected(evidence: Evidence, catalogue: Catalogue,
              estimate: Sequence[float] | None) -> list[str]:
    """
    Return the names of the perturbations thought to fail alone, the likeliest first.

    evidence: of the search alone. estimate: of its model, in the catalogue's order, if it has one.
    They are those thought to fail at least 10 points more often than nominal, by the model or else
    by their rollouts and two more that fail as often as nominal: one of which little is known is
    no suspect yet.
    """
    nominal = evidence.fixed(())
    usual = (sum(nominal.values()) + 1) / (len(nominal) + 2)

    def thought(failed: Failures) -> float:
        return (sum(failed.values()) + 2 * usual) / (len(failed) + 2)

    rates = estimate if estimate is not None else [
        thought(evidence.discovered((name,))) for name in catalogue.names]
    order = sorted(zip(rates, catalogue.names, strict=True), key=lambda each: (-each[0], each[1]))
    return [name for rate, name in order if rate >= usual + MARGIN]


def least(perturbations: int) -> int:
    """
    Return how many rollouts a suspect gets at least.

    With n pairs that all tell it from nominal the exact McNemar test has p = 2 / 2^n, which Holm
    multiplies by up to the number of perturbations in the catalogue.
    """
    return math.ceil(math.log2(2 * perturbations / (1 - CONFIDENCE))) + SPARE


def suspects(evidence: Evidence, catalogue: Catalogue, estimate: Sequence[float] | None,
             rollouts: int) -> list[str]:
    """
    Return the names of the perturbations to confirm, the likeliest first.

    They are the suspected ones, as many as can have least rollouts each; or if nothing is
    suspected, the whole catalogue.
    """
    names = suspected(evidence, catalogue, estimate)
    return names[:max(1, rollouts // least(len(catalogue)) - 1)] or list(catalogue.names)


def requests(catalogue: Catalogue, names: Iterable[str], seed: int, rollouts: int,
             asked: Container[str] = ()) -> Iterator[RolloutRequest]:
    """
    Yield the rollouts of nominal and of each perturbation alone, evenly, on fresh trials.

    asked: keys of rollouts that are run already; they are left out and do not count.
    """
    conditions = [NOMINAL, *(Condition((catalogue[name],)) for name in names)]
    each = (confirmation_request(condition, seed, trial)
            for trial in count() for condition in conditions)
    return islice((request for request in each if request.key not in asked), rollouts)


def confirmation_request(condition: Condition, seed: int, trial: int) -> RolloutRequest:
    """Return the request for the condition's confirmation rollout 0, 1, 2, ..."""
    return RolloutRequest(f'confirm/{condition.label}/{trial}', condition, seed,
                          FIRST_TRIAL + trial, 'confirmation', None)
