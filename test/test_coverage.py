# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Whether the intervals hold what they promise when a search chose the rollouts in its own favour.

Coins with known rates are searched many times over by choosers that go where failures were. What
is claimed of the rates afterwards is held against the truth.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from robomd_ros.conditions import Catalogue, Perturbation
from robomd_ros.diagnosis import confirmation
from robomd_ros.diagnosis.evidence import Evidence
from robomd_ros.diagnosis.settling import settled
from robomd_ros.diagnosis.statistics import (
    compare,
    CONFIDENCE,
    confidence_sequence,
    holm,
    wilson,
)
from robomd_ros.rollouts.ledger import End
from scipy.stats import beta

NOMINAL = 0.04
# As of a policy that colours bother little, a few changes more, and three very much.
RATES = np.array([0.04] * 6 + [0.1] * 5 + [0.2] * 4 + [0.35] * 3 + [0.6, 0.8, 0.95])
SEARCH, CONTROL, CONFIRM = 227, 25, 168  # of the 420 rollouts of a diagnosis
TIMES = 1000
CATALOGUE = Catalogue('lift', '/catalogue.yaml', 'a' * 64, tuple(
    Perturbation(f'arm_{arm}', f'body:part_{arm}.color', (1.0, 0.0, 0.0), 'Change a colour')
    for arm in range(len(RATES))))

Chooser = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


def thompson(generator, failures, n):
    """Draw a rate for each from its posterior; take the greatest."""
    return generator.beta(failures + 1, n - failures + 1).argmax(axis=1)


def upper_bound(generator, failures, n):
    """Take the greatest upper confidence bound (UCB1)."""
    bound = failures / np.maximum(n, 1) + np.sqrt(
        np.log(1 + n.sum(axis=1, keepdims=True)) / 2 / np.maximum(n, 1))
    return np.where(n == 0, np.inf, bound + 1e-6 * generator.random(n.shape)).argmax(axis=1)


def greedy(generator, failures, n):
    """Try each once, then whichever failed most often; who fails stays, who succeeds may go."""
    share = (failures + 1) / (n + 2) + 1e-6 * generator.random(n.shape)
    return np.where(n == 0, np.inf, share).argmax(axis=1)


CHOOSERS = (thompson, upper_bound, greedy)


@cache
def searched(choose: Chooser) -> tuple[np.ndarray, np.ndarray]:
    """Return failures and n after each of the searches, (TIMES, arms)."""
    generator = np.random.default_rng(0)
    failures, n = np.zeros((2, TIMES, len(RATES)), int)
    everyone = np.arange(TIMES)
    for _ in range(SEARCH):
        chosen = choose(generator, failures, n)
        failures[everyone, chosen] += generator.random(TIMES) < RATES[chosen]
        n[everyone, chosen] += 1
    return failures, n


@cache
def intervals(of: Callable[[int, int], tuple[float, float]]) -> np.ndarray:
    """Return (n, failures) -> the ends, for all that a search can have."""
    ends = np.full((SEARCH + 1, SEARCH + 1, 2), np.nan)
    for n in range(SEARCH + 1):
        ends[n, :n + 1] = [of(failures, n) for failures in range(n + 1)]
    return ends


def holds(ends: np.ndarray, rates: np.ndarray = RATES) -> np.ndarray:
    """Return for each interval whether the rate is in it."""
    return (ends[..., 0] <= rates) & (rates <= ends[..., 1])


@pytest.mark.parametrize('choose', CHOOSERS)
def test_the_naive_interval_of_what_a_search_reports_does_not_hold(choose):
    """
    Wilson's intervals on what the search saw, of those that it would report as failure modes.

    That is those whose interval lies above 0.1. They are to hold the rate in 95% of the cases;
    they do in 89.8% after Thompson sampling, in 91.4% after UCB1, in 75.1% after greedy choice.
    """
    failures, n = searched(choose)
    ends = intervals(wilson)[n, failures]
    reported = ends[..., 0] > 0.1
    assert reported.sum() > TIMES
    assert holds(ends)[reported].mean() < 0.93


@pytest.mark.parametrize('choose', CHOOSERS)
def test_the_anytime_valid_interval_holds(choose):
    """
    The same searches with what the map says of discovery, of each arm and of those reported.

    Of those reported it holds in 99.1%, 99.4% and 99.5% of the cases, of no arm in less than 99%.
    """
    failures, n = searched(choose)
    inside = beta.pdf(RATES, failures + 1, n - failures + 1) >= 1 - CONFIDENCE
    reported = intervals(wilson)[n, failures][..., 0] > 0.1
    assert inside[reported].mean() >= CONFIDENCE
    assert (inside.mean(axis=0) >= CONFIDENCE).all()  # of each arm
    for run, arm in np.random.default_rng(0).integers((TIMES, len(RATES)), size=(200, 2)):
        ends = confidence_sequence(int(failures[run, arm]), int(n[run, arm]))
        assert holds(np.array(ends), RATES[arm]) == inside[run, arm]


def evidence(failures: np.ndarray, n: np.ndarray, nominal: int) -> Evidence:
    """Return what a search leaves behind."""
    ends = [End((), 'control', trial, 'failure' if trial < nominal else 'success', '')
            for trial in range(CONTROL)]
    for name, failed, number in zip(CATALOGUE.names, failures, n, strict=True):
        ends += [End((name,), 'discovery', trial, 'failure' if trial < failed else 'success', '')
                 for trial in range(number)]
    return Evidence(ends)


@pytest.mark.parametrize('choose', CHOOSERS)
def test_the_interval_of_confirmation_holds(choose):
    """
    Wilson's intervals on fresh rollouts of those that the search made suspect.

    Seen: 95.5 to 95.7% hold; of the likeliest suspect alone, picked for its failures, 95.0 to
    97.3%.
    """
    generator = np.random.default_rng(1)
    inside, likeliest = [], []
    for failures, n in zip(*searched(choose), strict=True):
        found = evidence(failures, n, generator.binomial(CONTROL, NOMINAL))
        suspects = confirmation.suspects(found, CATALOGUE, None, CONFIRM)
        each = CONFIRM // (len(suspects) + 1)
        rates = RATES[[CATALOGUE.names.index(name) for name in suspects]]
        ends = intervals(wilson)[each, generator.binomial(each, rates)]
        inside += holds(ends, rates).tolist()
        likeliest.append(holds(ends, rates)[0])
    assert np.mean(inside) >= 0.93 and np.mean(likeliest) >= 0.93


def test_what_is_confirmed_to_be_a_failure_mode_is_one():
    """
    At most 5% of the searches may end with an arm called a failure mode that is like nominal.

    Exact McNemar and Holm over the catalogue, on fresh trials. Seen: none; and of the three that
    fail at 0.6 or more 2.3 are found on average, the greedy search not having met them all.
    """
    generator = np.random.default_rng(2)
    wrong, right = 0, 0
    for failures, n in zip(*searched(greedy), strict=True):
        found = evidence(failures, n, generator.binomial(CONTROL, NOMINAL))
        suspects = confirmation.suspects(found, CATALOGUE, None, CONFIRM)
        each = CONFIRM // (len(suspects) + 1)
        rates = RATES[[CATALOGUE.names.index(name) for name in suspects]]
        nominal = dict(enumerate((generator.random(each) < NOMINAL).tolist()))
        compared = [compare(dict(enumerate((generator.random(each) < rate).tolist())), nominal)
                    for rate in rates]
        adjusted = holm([some.p for some in compared], len(RATES))
        modes = {rate for rate, some, p in zip(rates.tolist(), compared, adjusted, strict=True)
                 if replace(some, p_holm=p).verdict == 'failure mode'}
        wrong += NOMINAL in modes
        right += len(modes & {0.6, 0.8, 0.95})
    assert wrong <= 0.05 * TIMES and right > TIMES


# Settling.

def settle(rates: np.ndarray, top: int, within: float, rule: Callable[..., bool],
           interval: Callable[[int, int], tuple[float, float]], seed: int) -> tuple[bool, int]:
    """
    Return whether what was settled on is right, and after how many rollouts.

    Rollouts go, two at a time, where they settle most: to the least sure of the top and to the
    likeliest rival (LUCB).
    """
    generator = np.random.default_rng(seed)
    counts = [(0, 0)] * len(rates)
    for used in range(0, 3000, 2):
        order = sorted(range(len(rates)),
                       key=lambda arm: -(counts[arm][0] + 1) / (counts[arm][1] + 2))
        if rule(counts, top, within):
            return rates[order[:top]].min() >= rates[order[top:]].max() - within - 1e-9, used
        ends = [interval(*each) for each in counts]
        for arm in (min(order[:top], key=lambda arm: ends[arm][0]),
                    max(order[top:], key=lambda arm: ends[arm][1])):
            failures, n = counts[arm]
            counts[arm] = failures + int(generator.random() < rates[arm]), n + 1
    raise AssertionError('not settled after 3000 rollouts')


def naively(rates, top, within):
    """Do as settled does, with Wilson's intervals."""
    ends = [wilson(*each) for each in rates]
    order = sorted(range(len(rates)), key=lambda arm: -(rates[arm][0] + 1) / (rates[arm][1] + 2))
    return min(ends[arm][0] for arm in order[:top]) >= max(
        ends[arm][1] for arm in order[top:]) - within


CLOSE = np.array([0.3, 0.3, 0.3, 0.52, 0.52, 0.52])


@pytest.mark.parametrize('rates, top, within', [
    (CLOSE, 3, 0.2), (np.array([0.05, 0.05, 0.05, 0.3, 0.3, 0.3]), 3, 0.1), (RATES, 3, 0.2)])
def test_what_is_settled_is_right(rates, top, within):
    """Asked after every other rollout, at least 95% of the runs have to be right; all are."""
    each = 1 - (1 - CONFIDENCE) / len(rates)
    runs = [settle(rates, top, within, settled,
                   lambda failures, n: confidence_sequence(failures, n, each), seed)
            for seed in range(100 if len(rates) < 10 else 20)]
    assert np.mean([right for right, _ in runs]) >= CONFIDENCE


def test_settling_by_intervals_that_may_not_be_looked_at_twice_is_often_wrong():
    """The same with Wilson's intervals, on the first of these: 77 of 100 are right."""
    runs = [settle(CLOSE, 3, 0.2, naively, wilson, seed) for seed in range(100)]
    assert np.mean([right for right, _ in runs]) < 0.9


@pytest.mark.parametrize('rate', [0.0, 0.1, 0.5, 1.0])
def test_equal_rates_settle(rate):
    """Whichever are the top, none fails more often than another; it takes 114 to 1752 rollouts."""
    right, used = settle(np.full(6, rate), 2, 0.2, settled,
                         lambda failures, n: confidence_sequence(failures, n, 1 - 0.05 / 6), 0)
    assert right and used <= 2500


@pytest.mark.parametrize('within', [0.05, 0.1, 0.2, 0.5])
def test_it_settles_sooner_if_less_is_asked(within):
    counts = [(9, 10), (8, 10), (2, 10), (1, 10)]
    more = [[(failures * k, n * k) for failures, n in counts] for k in (1, 2, 4, 8, 16, 32)]
    known = [settled(each, 2, within) for each in more]
    assert known == sorted(known) and known[-1]
    assert all(settled(counts, 2, within + 0.05)
               for counts, now in zip(more, known, strict=True) if now)


def test_settled_to_within_the_gap_between_the_intervals():
    ends = [confidence_sequence(failures, 10, 0.975) for failures in (9, 1)]
    gap = ends[1][1] - ends[0][0]
    assert gap > 0 and settled([(9, 10), (1, 10)], 1, gap + 1e-9)
    assert not settled([(9, 10), (1, 10)], 1, gap - 1e-9)


def test_settled_at_the_edges():
    assert not settled([(0, 0)] * 4, 2, 0.2)
    assert not settled([(0, 0)] * 4, 2, 1.0) and settled([(0, 1)] * 4, 2, 1.0)
    assert not settled([(3, 3), (0, 0)], 2, 0.2) and settled([(3, 3), (0, 1)], 2, 0.2)
    assert settled([(0, 40), (39, 40), (0, 40), (40, 40)], 2, 0.0)
    assert not settled([(0, 40), (39, 40), (30, 40), (40, 40)], 2, 0.0)
