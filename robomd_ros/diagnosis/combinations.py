# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Combinations: which of the perturbations of a failing stack it takes, and which interact."""

from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import replace
from itertools import combinations

import numpy as np
from robomd_ros.conditions import Catalogue
from robomd_ros.diagnosis.confirmation import confirmation_request, FIRST_TRIAL
from robomd_ros.diagnosis.evidence import Evidence, rate_of
from robomd_ros.diagnosis.failure_map import Interaction, Member, MinimalSet
from robomd_ros.diagnosis.statistics import compare, CONFIDENCE, Failures, holm, MARGIN
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutRunner

Rates = float | np.ndarray
Names = tuple[str, ...]  # of a condition's perturbations, ordered by slot; () is nominal

# Rollouts a condition. Seven trials on which only the whole set fails show each of two or three
# members to be needed, eight each of five (exact McNemar, Holm); a set that fails nearly always
# has as many in twelve.
TRIALS = 12
DRAWS = 20_000  # from posteriors; an end of the 95% interval is then good to 0.003 or so
SURPLUS = 0.3  # of a pair over what its members explain; TRIALS rollouts seldom show less


class Combinations:
    """
    Looks for the minimal failing sets within the stacks that failed during a search.

    A stack is looked at again on TRIALS fresh trials, beside nominal and beside itself with each
    perturbation left out: it is reduced to a 1-minimal failing input (Zeller and Hildebrandt 2002,
    Simplifying and isolating failure-inducing input), here of failures that come with some
    probability. If leaving one out changes little, the smaller set is looked at in the same way on
    the next TRIALS trials, as it would be flattered by those on which it was chosen.

    minimal_sets: in the order in which they were found. asked: keys of the rollouts spent.
    """

    def __init__(self, catalogue: Catalogue, runner: RolloutRunner, seed: int, evidence: Evidence,
                 suspected: Iterable[str]) -> None:
        """
        Prepare; nothing is run before run.

        runner: answers a key that has ended without running it again. seed: of the rollouts.
        evidence: of the search alone. suspected: names of perturbations thought to fail alone;
        a stack with one of them that did is not reduced, as it is known why it fails.
        """
        self._catalogue, self._runner, self._seed = catalogue, runner, seed
        self._stacks, self._promising = failing_stacks(evidence), promising_pairs(evidence)
        self._suspected = {
            name for name in suspected if any(evidence.discovered((name,)).values())}
        self._alone: set[str] = set()  # what a stack was reduced to
        self._failed: dict[Names, dict[int, bool]] = defaultdict(dict)
        self.asked: set[str] = set()
        self.minimal_sets: tuple[MinimalSet, ...] = ()

    def run(self, rollouts: int) -> int:
        """
        Look at one failing stack after the other with at most so many rollouts; return how many.

        Afterwards come the pairs that seem to fail more often than their members explain, though
        one of these is suspected to fail alone. Rollouts that ended in an earlier session count as
        well: what is done is a function of outcomes. What there are not enough left for is passed
        over. What the runner raises passes through.
        """
        for names in self._stacks:
            known = any(set(found.perturbations) <= set(names) for found in self.minimal_sets)
            if not known and (self._suspected | self._alone).isdisjoint(names):
                self._reduce(names, rollouts)
        for pair in self._promising:
            conditions = [pair, pair[:1], pair[1:], ()]
            if (pair not in self._failed and self._alone.isdisjoint(pair)
                    and self._affords(conditions, range(TRIALS), rollouts)):
                self._measure(conditions, range(TRIALS))
        return len(self.asked)

    @property
    def interactions(self) -> tuple[Interaction, ...]:
        """Return those of all pairs run on the same trials as nominal and both members alone."""
        found = []
        for pair in sorted(names for names in self._failed if len(names) == 2):
            conditions = [pair, pair[:1], pair[1:], ()]
            trials = set.intersection(*(set(self._failed.get(names, ())) for names in conditions))
            if trials:
                found.append(interaction(pair, *(self._on(trials, names) for names in conditions)))
        return tuple(sorted(found, key=lambda each: -each.interval[0]))

    def _reduce(self, names: Names, rollouts: int) -> None:
        """Note the minimal set within the stack, or the one perturbation that it comes to."""
        first = 0
        while len(names) > 1:
            trials = range(first, first + TRIALS)
            smaller = list(combinations(names, len(names) - 1))
            if not self._affords([names, (), *smaller], trials, rollouts):
                return
            self._measure([names, ()], trials)
            repeats = compare(self._on(trials, names), self._on(trials, ()))
            if repeats.difference is None or repeats.difference <= MARGIN:
                return
            self._measure(smaller, trials)
            idlest = self._note(names, trials)
            if not idlest:
                return
            names = tuple(name for name in names if name != idlest)
            first += TRIALS
        self._alone.update(names)

    def _note(self, names: Names, trials: range) -> str:
        """Note the set if it needs every member, else return which of them it needs least."""
        whole = self._on(trials, names)
        others = {name: self._on(trials, tuple(other for other in names if other != name))
                  for name in names}
        needed = {name: compare(whole, failed) for name, failed in others.items()}
        idle = [(each.difference, name) for name, each in needed.items()
                if each.difference is not None and each.difference <= MARGIN]
        if idle:
            return min(idle)[1]
        adjusted = holm([each.p for each in needed.values()])
        members = tuple(
            Member(name, rate_of(others[name]), replace(needed[name], p_holm=p))
            for name, p in zip(names, adjusted, strict=True))
        shown = all(each.needed.p_holm < 1 - CONFIDENCE for each in members)
        self.minimal_sets += MinimalSet(names, rate_of(whole), members, shown),
        return ''

    def _requests(self, conditions: Iterable[Names],
                  trials: range) -> dict[str, RolloutRequest]:
        """Return the requests, trial by trial, by key."""
        requests = (confirmation_request(self._catalogue.condition(names), self._seed, trial)
                    for trial in trials for names in conditions)
        return {request.key: request for request in requests}

    def _affords(self, conditions: Iterable[Names], trials: range, rollouts: int) -> bool:
        """Return whether the rollouts suffice for these as well as for those spent."""
        return len(self._requests(conditions, trials).keys() | self.asked) <= rollouts

    def _measure(self, conditions: Iterable[Names], trials: range) -> None:
        """Run what has not been run yet."""
        requests = self._requests(conditions, trials)
        new = [requests[key] for key in requests if key not in self.asked]
        self.asked.update(request.key for request in new)
        for result in self._runner.run(new):
            verdict = result.outcome.verdict
            if verdict != 'invalid':
                failed = self._failed[result.request.condition.names]
                failed[result.request.trial - FIRST_TRIAL] = verdict == 'failure'

    def _on(self, trials: Container[int], names: Names) -> Failures:
        """Return the valid rollouts of the condition on the trials."""
        failed = self._failed.get(names, {})
        return {trial: failed[trial] for trial in sorted(failed) if trial in trials}


def failing_stacks(evidence: Evidence) -> list[Names]:
    """Return the stacks that failed during the search, those that failed most often first."""
    failures = {names: sum(evidence.discovered(names).values())
                for names in evidence.names if len(names) > 1}
    return sorted((names for names, times in failures.items() if times),
                  key=lambda names: (-failures[names], len(names), names))


def promising_pairs(evidence: Evidence) -> list[Names]:
    """Return the pairs that seem to fail by SURPLUS more than expected, the most first."""
    def thought(names: Names, otherwise: float) -> float:
        failed = evidence.discovered(names) if names else evidence.fixed(())
        return (sum(failed.values()) + 0.5) / (len(failed) + 1) if failed else otherwise

    nominal = thought((), 0.0)
    excess: dict[Names, float] = {}
    for pair in failing_stacks(evidence):
        if len(pair) == 2:
            a, b = (thought((name,), nominal) for name in pair)
            excess[pair] = thought(pair, 0.0) - float(independent(a, b, nominal))
    return sorted((pair for pair in excess if excess[pair] > SURPLUS),
                  key=lambda pair: (-excess[pair], pair))


def interaction(pair: Names, both: Failures, first: Failures, second: Failures,
                nominal: Failures) -> Interaction:
    """
    Return how the pair does against what its members explain, of at least one rollout of each.

    Expected is what comes of members that act independently of each other (Bliss 1939, The
    toxicity of poisons applied jointly) on top of what fails nominally, which is in both. The
    interval is of the posterior, each rate's being Beta(failures + 1/2, successes + 1/2)
    (Jeffreys) and independent of the others'. Trials that are hard under all conditions make the
    true excess vary less than that, so the interval errs on the wide side; a bootstrap over trials
    would use them, but has no width where all rollouts of a condition end alike.
    """
    rates = [rate_of(failed) for failed in (both, first, second, nominal)]
    generator = np.random.default_rng(0)
    together, a, b, nothing = (
        generator.beta(rate.failures + 0.5, rate.n - rate.failures + 0.5, DRAWS)
        for rate in rates)
    low, high = np.quantile(
        together - independent(a, b, nothing), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    rate, *alone = (each.failures / each.n for each in rates)
    expected = float(independent(*alone))
    verdict = ('more than its members' if low > 0 else
               'less than its members' if high < 0 else 'not shown')
    return Interaction(pair, rates[0], expected, rate - expected, (float(low), float(high)),
                       verdict)


def independent(first: Rates, second: Rates, nominal: Rates) -> Rates:
    """Return 1 - (1 - first)(1 - second) / (1 - nominal), but no less than 0."""
    passing = np.maximum(1 - np.asarray(nominal), 1e-12)
    return np.maximum(1 - (1 - first) * (1 - second) / passing, 0)
