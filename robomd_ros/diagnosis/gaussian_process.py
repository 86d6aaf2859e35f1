# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `gp`: a Gaussian process shares what was found among similar perturbations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
import warnings

import numpy as np
from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis.batches import (
    Choice,
    make_generator,
    run_batches,
    SIZE,
    suspected,
    Tally,
)
from robomd_ros.diagnosis.environment import Search
from scipy.special import expit, ndtr
import torch

with warnings.catch_warnings():  # linear_operator asks torch for what is on its way out
    warnings.simplefilter('ignore', FutureWarning)
    from botorch.models import SingleTaskGP
    from botorch.optim.fit import fit_gpytorch_mll_scipy
    from gpytorch.kernels import Kernel, LinearKernel, RBFKernel, ScaleKernel
    from gpytorch.means import Mean
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior
    from linear_operator import to_dense

CONTACT = ('size', 'friction', 'mass')  # properties that change what the gripper meets

# Of the logit of the failure rate, before any rollout; of general considerations, since a change
# often makes a policy fail always or never, and then for reasons of its own.
SLOPE = 1.5  # per standard deviation of the log action deviation
SPREADS = {  # standard deviations of the terms, see make_kernel
    'level': 1.5, 'slope': 1.5, 'shape': 1.0, 'slot': 1.0, 'contact': 1.0, 'own': 2.0,
    'own contact': 1.0}
SURE = 1.0  # standard deviation of the logarithms of the variances of these terms

SAMPLES = 2000  # of the posterior
REFIT = 1.5  # by what factor the evidence has grown when the variances are fitted again
_GRID = np.linspace(-8, 8, 401)  # of an integral over a normal distribution, in deviations
_STEP = _GRID[1] - _GRID[0]
_UNTRIED = 1e6  # variance of the evidence on a perturbation that was not tried
_ROUNDS = 50  # of expectation propagation at most; a few are enough


def search(search: Search) -> None:
    """
    Run the search.

    The next rollout goes where it is expected to mend the ranking of the whole catalogue most; see
    choose_places. With several in a batch, each is chosen as if the earlier ones had ended.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how many there are, and the cores have work
    try:
        _search(search)
    finally:
        torch.set_num_threads(threads)


def _search(search: Search) -> None:
    deviation, gripper = suspected(search)
    features = make_features(search.catalogue, deviation, gripper)
    fitted: dict[int, np.ndarray] = {}  # rollouts there were -> prior covariance

    def believe(history: Sequence[Tally]) -> 'Belief':
        tally = history[last_fit([int(each.valid.sum()) for each in history])]
        rollouts = int(tally.valid.sum())
        if rollouts not in fitted:
            fitted.clear()
            fitted[rollouts] = fit_covariance(features, tally)
        belief = infer(SLOPE * deviation, fitted[rollouts], history[-1])
        search.on_estimate(belief.rates)
        return belief

    def choose(history: Sequence[Tally]) -> list[Choice]:
        belief = believe(history)
        generator = make_generator(search, len(history) - 1)
        covariance = belief.covariance_of_rates(generator)
        places = choose_places(belief.rates, covariance, history[-1].usable, SIZE)
        return [(place, 1.0) for place in places]

    believe(run_batches(search, 'gp', choose))


def last_fit(rollouts: Sequence[int]) -> int:
    """
    Return before which batch the variances are fitted that hold for the last one.

    rollouts: valid ones before each batch. They are fitted when there are REFIT times as many as
    at the last time; at 0 they are those of the prior.
    """
    last = 0
    for batch, number in enumerate(rollouts):
        if number > REFIT * rollouts[last]:
            last = batch
    return last


@dataclass(frozen=True)
class Features:
    """
    What the model knows of the perturbations.

    values: (N, D). columns: of each term of the model.
    """

    values: torch.Tensor
    columns: dict[str, tuple[int, ...]]


def make_features(catalogue: Catalogue, deviation: np.ndarray, gripper: np.ndarray) -> Features:
    """Return the features; deviation, gripper: (N,), standardized."""
    slots = sorted({perturbation.slot for perturbation in catalogue})
    contact = np.array([[perturbation.property in CONTACT] for perturbation in catalogue], float)
    own = np.eye(len(catalogue))
    terms = {
        'slope': deviation[:, None],
        'gripper': gripper[:, None],
        'level': np.ones((len(catalogue), 1)),
        'slot': np.array([[float(p.slot == slot) for slot in slots] for p in catalogue]),
        'contact': contact,
        'own': own,
        'own contact': own * contact}
    ends = np.cumsum([each.shape[1] for each in terms.values()])
    columns = {name: tuple(range(end - each.shape[1], end))
               for (name, each), end in zip(terms.items(), ends.tolist(), strict=True)}
    columns['shape'] = columns['slope'] + columns.pop('gripper')
    return Features(torch.tensor(np.hstack(list(terms.values()))), columns)


class _Rising(Mean):
    """The prior mean: rises with the deviation of the translation, the first feature."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return SLOPE * values[..., 0]


class _Sum(Kernel):
    """As AdditiveKernel, which for low-rank terms however goes by a Cholesky factor of each."""

    def __init__(self, terms: Sequence[Kernel]) -> None:
        super().__init__()
        self.terms = torch.nn.ModuleList(terms)

    def forward(self, first: torch.Tensor, second: torch.Tensor, **asked: Any) -> torch.Tensor:
        """Return the covariance."""
        return sum(to_dense(term(first, second, **asked)) for term in self.terms)


def make_kernel(features: Features) -> Kernel:
    """
    Return the covariance of the logits of the failure rates, with the spreads of SPREADS.

    The logit is a sum of terms, each with a variance: one for all ('level'); linear in the log
    deviation of the translation, with a rising mean ('slope'); any smooth function of that and of
    the log deviation of the gripper ('shape'); one that the perturbations of a slot share
    ('slot'); one that those share which change contact, of which the deviation says little
    ('contact'); and one of each perturbation alone ('own'), with a greater variance for those that
    change contact ('own contact').
    """
    terms: list[Kernel] = []
    for name, spread in SPREADS.items():
        prior = LogNormalPrior(2 * np.log(spread), SURE)
        columns = features.columns[name]
        if name == 'shape':
            term = ScaleKernel(
                RBFKernel(active_dims=columns, lengthscale_prior=LogNormalPrior(0.0, 0.5)),
                outputscale_prior=prior)
            term.base_kernel.lengthscale = 1.0  # a standard deviation of the log deviation
            term.outputscale = spread**2
        else:
            term = LinearKernel(active_dims=columns, variance_prior=prior)
            term.variance = spread**2
        terms.append(term)
    return _Sum(terms).double()


def fit_covariance(features: Features, tally: Tally) -> np.ndarray:
    """
    Return the prior's (N, N) covariance of the logits, the variances fitted to the tally.

    They are the likeliest ones given their own prior. The evidence is what expectation propagation
    makes of it: with that held fast, the gradient of its marginal likelihood is that of a Gaussian
    process with Gaussian noise (Seeger 2005), which BoTorch climbs; then it is made anew.
    """
    kernel = make_kernel(features)
    mean = SLOPE * features.values[:, 0].numpy()
    for _ in range(2 if tally.valid.any() else 0):
        belief = infer(mean, _covariance(kernel, features), tally)
        with warnings.catch_warnings():  # that it stopped early, which is good enough
            warnings.simplefilter('ignore')
            model = SingleTaskGP(
                features.values, torch.tensor(belief.logits[:, None]),
                torch.tensor(belief.variances[:, None]), covar_module=kernel,
                mean_module=_Rising(), outcome_transform=None)
            fit_gpytorch_mll_scipy(
                ExactMarginalLogLikelihood(model.likelihood, model), options={'maxiter': 100})
    return _covariance(kernel, features)


def _covariance(kernel: Kernel, features: Features) -> np.ndarray:
    with torch.no_grad():
        return kernel(features.values).to_dense().numpy()


@dataclass(frozen=True)
class Belief:
    """
    What is believed of the perturbations' failure rates.

    mean, covariance: (N,), (N, N) of their logits, jointly normal. logits, variances: (N,) of the
    measurements with normal errors to which the evidence amounts.
    """

    mean: np.ndarray
    covariance: np.ndarray
    logits: np.ndarray
    variances: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Return the (N,) failure rates that are expected."""
        weights = np.exp(-_GRID**2 / 2)
        spread = np.sqrt(self.covariance.diagonal())
        return expit(self.mean[:, None] + spread[:, None] * _GRID) @ weights / weights.sum()

    def covariance_of_rates(self, generator: np.random.Generator) -> np.ndarray:
        """Return the (N, N) covariance of the failure rates, by samples."""
        factor = np.linalg.cholesky(self.covariance + 1e-9 * np.eye(len(self.mean)))
        normal = generator.standard_normal((SAMPLES, len(self.mean)))
        return np.atleast_2d(np.cov(expit(self.mean + normal @ factor.T), rowvar=False))


def infer(mean: np.ndarray, covariance: np.ndarray, tally: Tally) -> Belief:
    """
    Return what is believed after the rollouts of the tally.

    mean, covariance: the prior's, of the logits. By expectation propagation (Minka 2001; Rasmussen
    and Williams 2006, Sec. 3.6), all perturbations at once: the binomial evidence on each is
    replaced by a measurement of its logit with a normal error, such that mean and variance of the
    logit come out as they do with the evidence itself.
    """
    failures, valid = tally.failures[:, None], tally.valid[:, None]
    precision, shift = np.zeros_like(mean), np.zeros_like(mean)
    for _ in range(_ROUNDS):
        after, spread = _condition(mean, covariance, precision, shift)
        variance = spread.diagonal()
        others = 1 / (1 / variance - precision)  # variance without what it says itself
        centre = others * (after / variance - shift)
        logits = after[:, None] + np.sqrt(variance)[:, None] * _GRID
        log = failures * logits - valid * np.logaddexp(0, logits) - (
            logits - centre[:, None])**2 / (2 * others[:, None])
        weights = np.exp(log - log.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        first = (weights * logits).sum(1)
        second = (weights * (logits - first[:, None])**2).sum(1)
        second = np.maximum(second, variance * _STEP**2)  # less is a matter of the next round
        old = precision, shift
        tried = valid[:, 0] > 0
        precision = np.where(tried, np.maximum(1 / second - 1 / others, 1 / _UNTRIED), 0)
        shift = np.where(tried, first / second - centre / others, 0)
        if np.allclose([precision, shift], old, rtol=1e-6, atol=1e-6):
            break
    tried = precision > 0
    measured = np.where(tried, precision, 1)
    return Belief(*_condition(mean, covariance, precision, shift), shift / measured,
                  np.where(tried, 1 / measured, _UNTRIED))


def _condition(mean: np.ndarray, covariance: np.ndarray, precision: np.ndarray,
               shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance after measurements of that precision, of shift / precision."""
    root = np.sqrt(precision)
    inner = np.linalg.inv(np.eye(len(mean)) + root[:, None] * covariance * root)
    half = covariance * root
    after = covariance - half @ inner @ half.T
    return mean + after @ (shift - precision * mean), (after + after.T) / 2


def choose_places(rates: np.ndarray, covariance: np.ndarray, usable: np.ndarray,
                  number: int) -> list[int]:
    """
    Return the places of the perturbations whose next rollouts are worth most to the ranking.

    rates, covariance: (N,), (N, N), what is believed of the failure rates. usable: (N,) bool,
    which may be chosen. If one perturbation is ranked before another that fails more, pair
    accuracy loses in proportion to the difference of their rates: of a failed rollout of the one
    and a successful one of the other, p (1 - q) pairs are put right and q (1 - p) wrong. The loss
    expected, over all pairs ranked by the rates believed, is what a rollout is chosen to lessen
    most. A rollout's outcome, 0 or 1, has variance p (1 - p) and its covariance with any rate is
    that of the rate with p, so that how much variance it will take away is known beforehand.
    """
    gaps = np.abs(rates[:, None] - rates)
    outcome = np.maximum(rates * (1 - rates), 1e-9)
    places: list[int] = []
    for _ in range(number):
        before = expected_loss(gaps, covariance)
        gains = [before - expected_loss(gaps, _less(covariance, place, outcome))
                 if usable[place] else -np.inf for place in range(len(rates))]
        places.append(int(np.argmax(gains)))
        covariance = _less(covariance, places[-1], outcome)
    return places


def _less(covariance: np.ndarray, place: int, outcome: np.ndarray) -> np.ndarray:
    """Return the covariance of the rates after one more rollout of the place."""
    return covariance - np.outer(covariance[place], covariance[place]) / outcome[place]


def expected_loss(gaps: np.ndarray, covariance: np.ndarray) -> float:
    """Return the loss expected over all pairs; gaps: (N, N) between the rates believed."""
    variances = covariance.diagonal()
    spreads = np.sqrt(np.maximum(variances[:, None] + variances - 2 * covariance, 1e-12))
    ratios = gaps / spreads
    density = np.exp(-ratios**2 / 2) / np.sqrt(2 * np.pi)
    return float((spreads * density - gaps * ndtr(-ratios)).sum())
