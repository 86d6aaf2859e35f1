# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model of the searcher gp, and what it chooses."""

from collections import Counter
from pathlib import Path

from biased_runner import Biased, tally
from coin_runner import a_search, CATALOGUE
import numpy as np
import pytest
from robomd_ros.conditions import load_catalogue
from robomd_ros.diagnosis import gaussian_process, sweep
from robomd_ros.diagnosis.suspicion import Suspicion
from scipy.special import expit

LIFT = load_catalogue(Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml')


def suspicion_of(catalogue, deviation):
    """Return a suspicion with those deviations."""
    deviation = dict(zip(catalogue.names, map(float, deviation), strict=True))
    return Suspicion(deviation, {name: each / 3 for name, each in deviation.items()}, 35, 4)


def estimates(rates, deviation, rollouts, seed=0, catalogue=LIFT):
    """Return all that gp thought of the failure rates, from before the first rollout on."""
    found = []
    gaussian_process.search(a_search(
        Biased(rates), rollouts, rollouts // 10, seed=seed, catalogue=catalogue,
        on_estimate=found.append, suspicion=lambda: suspicion_of(catalogue, deviation)))
    return found


def test_gp_ranks_by_suspicion_before_any_rollout():
    deviation = np.array([0.5, 0.01, 0.3, 1.4, 0.02, 0.9])
    first, *_ = estimates(dict.fromkeys(CATALOGUE.names, 0.5), deviation, 5, catalogue=CATALOGUE)
    assert np.argsort(first).tolist() == np.argsort(deviation).tolist()
    assert first.min() < 0.35 and first.max() > 0.65


def test_gp_is_less_sure_of_what_changes_contact():
    contact = np.array([p.property == 'size' for p in LIFT])
    features = gaussian_process.make_features(LIFT, np.zeros(21), np.zeros(21))
    spread = gaussian_process.fit_covariance(features, tally([0] * 21)).diagonal()
    assert spread[contact].min() > 1.2 * spread[~contact].max()


def test_gp_infers_as_integration_does():
    covariance = np.array([[4.0, 2.5], [2.5, 3.0]])
    mean = np.array([-1.0, 0.5])
    found = tally([9, 2], [1, 2])
    belief = gaussian_process.infer(mean, covariance, found)
    one, two = np.meshgrid(*[np.linspace(-14, 14, 1401)] * 2, indexing='ij')
    apart = np.stack([one - mean[0], two - mean[1]])
    log = -np.einsum('ixy,ij,jxy->xy', apart, np.linalg.inv(covariance), apart) / 2
    log += sum(f * logit - n * np.logaddexp(0, logit) for f, n, logit in (
        (1, 9, one), (2, 2, two)))
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    means = np.array([(weights * logit).sum() for logit in (one, two)])
    around = [one - means[0], two - means[1]]
    spread = [[(weights * a * b).sum() for a in around] for b in around]
    assert belief.mean == pytest.approx(means, abs=0.03)
    assert belief.covariance == pytest.approx(np.array(spread), rel=0.05)
    assert belief.rates == pytest.approx(
        [(weights * expit(logit)).sum() for logit in (one, two)], abs=0.02)
    sampled = belief.covariance_of_rates(np.random.default_rng(0))
    exact = np.cov(np.stack([expit(one).ravel(), expit(two).ravel()]), aweights=weights.ravel())
    assert sampled == pytest.approx(exact, rel=0.3)


def test_gp_infers_from_very_many_rollouts():
    found = tally([5000, 20000, 3, 0], [2000, 0, 3, 0])
    belief = gaussian_process.infer(np.zeros(4), 7 * np.eye(4), found)
    assert belief.rates[0] == pytest.approx(0.4, abs=0.001)
    assert np.sqrt(belief.covariance[0, 0]) == pytest.approx(1 / np.sqrt(5000 * 0.24), rel=0.05)
    assert belief.rates[1] < 2e-4 and 0.8 < belief.rates[2] < 0.97
    assert belief.rates[3] == pytest.approx(0.5) and belief.variances[3] > 1e5


def test_gp_shares_strength_within_a_slot():
    red = CATALOGUE.names.index('red_table')
    features = gaussian_process.make_features(CATALOGUE, np.zeros(6), np.zeros(6))
    found = tally([12, 12, 12, 0, 12, 12], [0, 0, 0, 0, 12, 12])
    covariance = gaussian_process.fit_covariance(features, found)
    rates = gaussian_process.infer(np.zeros(6), covariance, found).rates
    assert CATALOGUE.perturbations[red].slot == 'table.color' and red == 3
    assert rates[red] > 0.7
    alike = tally([0, 12, 12, 12, 12, 12], [0, 0, 0, 12, 12, 12])
    covariance = gaussian_process.fit_covariance(features, alike)
    assert gaussian_process.infer(np.zeros(6), covariance, alike).rates[0] < 0.3


@pytest.mark.parametrize('failures', [[0] * 21, [1] * 21, [1, 0] * 10 + [1]])
@pytest.mark.parametrize('known', [1, 2, 21])
def test_gp_stays_sane_with_little_evidence(known, failures):
    deviation = np.linspace(-2, 2, 21)
    features = gaussian_process.make_features(LIFT, deviation, deviation[::-1].copy())
    asked = np.arange(21) < known
    found = tally(asked.astype(int), failures * asked)
    covariance = gaussian_process.fit_covariance(features, found)
    spread = np.sqrt(covariance.diagonal())
    assert 1 < spread.min() and spread.max() < 10
    rates = gaussian_process.infer(1.5 * deviation, covariance, found).rates
    assert np.isfinite(rates).all() and 0 < rates.min() < rates.max() < 1


def test_loss_is_that_of_pair_accuracy():
    generator = np.random.default_rng(0)
    covariance = np.array([[0.04, 0.01, 0.0], [0.01, 0.02, 0.0], [0.0, 0.0, 0.001]])
    means = np.array([0.5, 0.45, 0.2])
    rates = generator.multivariate_normal(means, covariance, 200_000)
    right = rates[:, :, None] * (1 - rates[:, None])  # pairs with the first failed
    best = np.maximum(right, right.transpose(0, 2, 1))
    ranked = np.where(means[:, None] > means, right, right.transpose(0, 2, 1))
    gaps = np.abs(means[:, None] - means)
    assert gaussian_process.expected_loss(gaps, covariance) == pytest.approx(
        (best - ranked).sum((1, 2)).mean(), rel=0.02, abs=1e-6)


def test_gp_tries_what_the_ranking_hangs_on():
    rates = np.array([0.9, 0.5, 0.45, 0.05])
    covariance = np.diag([0.001, 0.04, 0.04, 0.001])
    usable = np.ones(4, bool)
    assert sorted(gaussian_process.choose_places(rates, covariance, usable, 2)) == [1, 2]
    usable[1] = False
    assert 1 not in gaussian_process.choose_places(rates, covariance, usable, 4)


def test_variances_are_fitted_as_the_evidence_grows():
    rollouts = list(range(0, 400, 4))
    fits = sorted({gaussian_process.last_fit(rollouts[:end]) for end in range(1, 101)})
    assert [rollouts[fit] for fit in fits] == [0, 4, 8, 16, 28, 44, 68, 104, 160, 244, 368]
    assert gaussian_process.last_fit([0, 0, 0]) == 0


def pair_accuracy(rates, scores):
    """Return how often a failed rollout has a higher score than a successful one."""
    weights = rates[:, None] * (1 - rates)
    np.fill_diagonal(weights, 0)
    right = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    return (weights * right).sum() / weights.sum()


def swept(rates, rollouts, seed):
    """Return what the plain sweep's posterior means are after so many rollouts."""
    runner = Biased(rates)
    failures = Counter()
    search = a_search(runner, rollouts, rollouts // 10, seed=seed, catalogue=LIFT)
    for result in runner.run(sweep.requests(search)):
        failures[result.request.condition.label] += result.outcome.verdict == 'failure'
    tried = Counter(runner.tried)
    return np.array([(failures[name] + 1) / (tried[name] + 2) for name in LIFT.names])


def a_world(seed, deviation_tells):
    """Return the rates of a made-up policy on Lift's perturbations, and the deviations."""
    generator = np.random.default_rng([5, seed])
    deviation, slot, own = generator.standard_normal((3, 21))
    slots = sorted({p.slot for p in LIFT})
    shared = slot[[slots.index(p.slot) for p in LIFT]]
    rates = expit(2.0 * deviation * deviation_tells + 0.8 * shared + 0.8 * own)
    return dict(zip(LIFT.names, rates, strict=True)), np.exp(deviation - 1)


@pytest.mark.parametrize('deviation_tells, margin', [(True, 0.03), (False, -0.04)])
def test_gp_against_the_sweep_at_equal_budget(deviation_tells, margin):
    gains = []
    for seed in range(8):
        rates, deviation = a_world(seed, deviation_tells)
        true = np.array(list(rates.values()))
        scores = estimates(rates, deviation, 60, seed)[-1]
        gains.append(pair_accuracy(true, scores) - pair_accuracy(true, swept(rates, 60, seed)))
    assert np.mean(gains) > margin, gains


def test_gp_estimates_are_close_to_the_rates():
    rates, deviation = a_world(3, True)
    last = estimates(rates, deviation, 420)[-1]
    apart = last - np.array(list(rates.values()))
    assert np.sqrt(np.mean(apart**2)) < 0.15 and abs(apart.mean()) < 0.05
