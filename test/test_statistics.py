# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The statistics against published and hand-computed answers, and against simulated coins."""

from dataclasses import replace

import numpy as np
import pytest
from robomd_ros.diagnosis.statistics import (
    compare,
    confidence_sequence,
    holm,
    newcombe,
    Paired,
    wilson,
)
from scipy.stats import beta, binomtest

ALPHA = 0.05


# One rate.

@pytest.mark.parametrize('failures, n, interval', [
    (0, 0, (0, 1)), (0, 10, (0, 0.2775)), (10, 10, (0.7225, 1)), (1, 20, (0.0089, 0.2361)),
    (50, 100, (0.4038, 0.5962))])  # computed by hand from Wilson's formula
def test_wilson(failures, n, interval):
    assert wilson(failures, n) == pytest.approx(interval, abs=5e-5)


def test_wilson_of_nothing_but_failures_ends_exactly_at_one():
    assert {wilson(n, n)[1] for n in range(1, 200)} == {1.0}
    assert {wilson(0, n)[0] for n in range(1, 200)} == {0.0}


def test_wilson_covers():
    generator = np.random.default_rng(0)
    rates = generator.uniform(size=4000)
    intervals = np.array([wilson(int(failures), 40) for failures in generator.binomial(40, rates)])
    inside = (intervals[:, 0] <= rates) & (rates <= intervals[:, 1])
    assert 0.94 < inside.mean() < 0.965


# One rate, whenever one looks.

@pytest.mark.parametrize('failures, n', [
    (0, 1), (1, 1), (0, 12), (12, 12), (1, 2), (3, 10), (1, 60), (59, 60), (200, 400), (1, 2000)])
@pytest.mark.parametrize('confidence', [0.95, 1 - 0.05 / 21])
def test_confidence_sequence_ends_where_the_density_is_alpha(failures, n, confidence):
    low, high = confidence_sequence(failures, n, confidence)
    density = beta(failures + 1, n - failures + 1).pdf
    assert 0 <= low <= failures / n <= high <= 1
    for end, bound in ((low, 0), (high, 1)):
        if end != bound:
            assert density(end) == pytest.approx(1 - confidence, rel=1e-4)
    assert (low == 0) == (failures == 0) and (high == 1) == (failures == n)
    inside = np.linspace(low, high, 101)[1:-1]
    assert (density(inside) > 1 - confidence).all()


def test_confidence_sequence_in_closed_form():
    assert confidence_sequence(0, 0) == (0, 1)
    for n in (1, 5, 20, 100):  # the density of Beta(1, n + 1) is (n + 1)(1 - rate)^n
        low, high = confidence_sequence(0, n)
        assert (low, high) == pytest.approx((0, 1 - (ALPHA / (n + 1)) ** (1 / n)))
        assert confidence_sequence(n, n) == pytest.approx((1 - high, 1 - low))


def test_confidence_sequence_is_monotone():
    n = 30
    ends = np.array([confidence_sequence(failures, n) for failures in range(n + 1)])
    assert (np.diff(ends, axis=0) >= 0).all()  # more failures, a higher rate
    widths = [np.diff(confidence_sequence(n // 3, n))[0] for n in (3, 12, 60, 300, 3000)]
    assert widths == sorted(widths, reverse=True)  # more rollouts, a closer look
    wider = confidence_sequence(7, 30, 0.99)
    assert wider[0] < confidence_sequence(7, 30)[0] < confidence_sequence(7, 30)[1] < wider[1]


@pytest.mark.parametrize('rate', [0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_confidence_sequence_holds_at_every_look(rate):
    """
    Of 4000 runs, at most 5% may have one look or more, of 200, at which the rate is not in it.

    Seen: 2.8 to 3.6% of them have, for rates from 0.02 to 0.9. The Wilson interval, looked at as
    often, misses the rate some time in 30 to 44% of the runs.
    """
    failures, n = runs(rate)
    density = beta.pdf(rate, failures + 1, n - failures + 1)
    missed = (density < ALPHA).any(axis=1).mean()
    assert missed <= ALPHA
    if 0 < rate < 1:
        ends = np.array([[wilson(f, each) if f <= each else (0, 0) for f in range(201)]
                         for each in range(1, 201)])[n - 1, failures]
        naive = ((rate < ends[..., 0]) | (rate > ends[..., 1])).any(axis=1).mean()
        assert naive > 0.25 and missed < naive / 5


def runs(rate, number=4000, longest=200):
    """Return failures and n, (number, longest) each, at every moment of so many runs."""
    failed = np.random.default_rng(0).random((number, longest)) < rate
    return failed.cumsum(axis=1), np.broadcast_to(np.arange(1, longest + 1), failed.shape)


# Two rates on the same trials.

@pytest.mark.parametrize('both, first, second, neither, interval', [
    # Newcombe 1998, method 10
    (36, 12, 2, 0, (0.0569, 0.3404)),
    # Fagerland, Lydersen and Laake 2014: Bentur et al. 2009, Cavo et al. 2012
    (1, 1, 7, 12, (-0.507, -0.026)), (59, 6, 16, 80, (-0.1186, -0.0046))])
def test_newcombe_as_published(both, first, second, neither, interval):
    found = newcombe(np.array([[neither, second], [first, both]]))
    assert found == pytest.approx(interval, abs=5e-4 if both == 1 else 5e-5)
    mirrored = newcombe(np.array([[neither, first], [second, both]]))
    assert mirrored == pytest.approx((-found[1], -found[0]))


@pytest.mark.parametrize('table, interval', [
    ([[0, 0], [0, 0]], (-1, 1)),  # nothing is known
    ([[10, 0], [0, 0]], (-0.2775, 0.2775)),  # none failed: the ends of Wilson's for 0 of 10
    ([[0, 0], [0, 10]], (-0.2775, 0.2775)),
    # Only the first failed, always: Wilson's are (0.7225, 1) and (0, 0.2775).
    ([[0, 0], [10, 0]], (1 - 0.2775 * 2**0.5, 1))])
def test_newcombe_at_the_edges(table, interval):
    assert newcombe(np.array(table)) == pytest.approx(interval, abs=5e-5)


@pytest.mark.parametrize('first, second, alike', [
    (0.5, 0.1, 0.0), (0.5, 0.1, 0.8), (0.3, 0.3, 0.5), (0.9, 0.6, 0.5), (0.05, 0.05, 0.0)])
def test_newcombe_covers(first, second, alike):
    """
    Of 2000 comparisons of 40 pairs, about 95% or more; 95.2 to 99.0% were seen.

    alike: the share of the pairs in which both rollouts have the same luck.
    """
    generator = np.random.default_rng(0)
    luck, other = generator.random((2, 2000, 40))
    other = np.where(generator.random((2000, 40)) < alike, luck, other)
    a, b = luck < first, other < second
    ends = np.array([newcombe(np.array([[(~x & ~y).sum(), (~x & y).sum()],
                                        [(x & ~y).sum(), (x & y).sum()]]))
                     for x, y in zip(a, b, strict=True)])
    covered = (ends[:, 0] <= first - second) & (first - second <= ends[:, 1])
    assert covered.mean() > 0.94


def outcomes(text, start=0):
    """Return trial -> whether it failed; X is a failure, o a success, a blank no valid rollout."""
    return {trial: mark == 'X' for trial, mark in enumerate(text, start) if mark != ' '}


def test_compare_takes_only_trials_that_both_have():
    found = compare(outcomes('XXXXXXXXoo X'), outcomes('ooooooXX oXXXXX'))
    # trials 0 to 7, 9 and 11; not 8, 10 and 12 to 14
    assert (found.pairs, found.more, found.less) == (10, 6, 0)
    assert found.difference == pytest.approx(0.6)
    assert found.p == found.p_holm == pytest.approx(2 * 0.5**6)
    assert found.interval == newcombe(np.array([[1, 0], [6, 3]]))
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_compare_without_a_common_trial():
    for found in (compare(outcomes('Xo'), outcomes('Xo', start=7)), compare({}, {})):
        assert found == Paired(0, 0, 0, None, (-1.0, 1.0), 1.0, 1.0)
        assert found.verdict == 'not shown'


def test_compare_turned_round():
    first, second = outcomes('XXXXXooooX'), outcomes('ooXoooXoXX')
    there, back = compare(first, second), compare(second, first)
    assert (there.more, there.less) == (back.less, back.more) == (4, 2)
    assert there.difference == -back.difference and there.p == back.p
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))


@pytest.mark.parametrize('more, less', [(0, 0), (1, 0), (5, 0), (6, 0), (0, 6), (8, 1), (3, 3),
                                        (20, 5)])
def test_p_is_of_the_exact_mcnemar_test(more, less):
    """Trials that tell the two apart are tosses of a fair coin; those alike say nothing."""
    alike = 'XXXoooo'
    found = compare(outcomes('X' * more + 'o' * less + alike),
                    outcomes('o' * more + 'X' * less + alike))
    assert (found.more, found.less) == (more, less)
    expected = binomtest(more, more + less).pvalue if more + less else 1.0
    assert found.p == pytest.approx(expected)


def test_mcnemar_seldom_errs():
    """Of 2000 comparisons of equal rates, at most 5% have p < 0.05; 2.7% had."""
    failed = np.random.default_rng(0).random((2000, 2, 25)) < 0.5
    p = [compare(dict(enumerate(a)), dict(enumerate(b))).p for a, b in failed]
    assert np.mean(np.array(p) < ALPHA) <= ALPHA


# Many comparisons.

@pytest.mark.parametrize('p, family, adjusted', [
    ([], None, []),
    ([0.03], None, [0.03]),
    ([0.01, 0.04, 0.03], None, [0.03, 0.06, 0.06]),  # 3 * 0.01; 2 * 0.03; 1 * 0.04, no less
    ([0.04, 0.01, 0.03, 0.005], None, [0.06, 0.03, 0.06, 0.02]),  # Holm 1979's procedure
    ([0.5, 0.6], None, [1.0, 1.0]),
    ([0.01, 0.02], 4, [0.04, 0.06])])  # 4 * 0.01; 3 * 0.02; two of p = 1 are left out
def test_holm(p, family, adjusted):
    assert holm(p, family) == pytest.approx(adjusted)


@pytest.mark.parametrize('difference, p_holm, verdict', [
    (0.4, 0.01, 'failure mode'), (0.1, 0.049, 'failure mode'), (0.4, 0.051, 'not shown'),
    (0.099, 0.001, 'not shown'), (-0.01, 0.04, 'better than nominal'), (-0.5, 0.06, 'not shown'),
    (0.0, 0.01, 'not shown'), (None, 0.01, 'not shown')])
def test_verdict(difference, p_holm, verdict):
    some = Paired(40, 20, 4, difference, (0.0, 0.6), 0.001, 1.0)
    assert replace(some, p_holm=p_holm).verdict == verdict
