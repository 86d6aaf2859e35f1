# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Combinations: minimal failing sets and interactions, of coins that are known."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coin_runner import a_diagnosis, CoinRunner, HORIZON, settings
import numpy as np
import pytest
from robomd_ros.conditions import Catalogue, Perturbation
from robomd_ros.diagnosis.combinations import Combinations, independent, interaction, TRIALS
from robomd_ros.diagnosis.confirmation import FIRST_TRIAL
from robomd_ros.diagnosis.evidence import Evidence
from robomd_ros.diagnosis.statistics import wilson
from robomd_ros.rollouts import Ledger, LedgeredRunner
from robomd_ros.rollouts.ledger import End
from robomd_ros.rollouts.protocol import RolloutRequest, RunnerError
from robomd_ros.worlds.protocol import Outcome

CATALOGUE = Catalogue('lift', '/catalogue.yaml', 'a' * 64, tuple(
    Perturbation(name, f'{name}.color', (1.0, 0.0, 0.0), f'Change {name}') for name in 'abcde'))
MANY = 10_000  # rollouts


class Coins(CoinRunner):
    """Fails as often as rate says of the condition's label, the names' letters in order."""

    def __init__(self, rate: Callable[[str], float], parallel: int = 1) -> None:
        super().__init__(parallel)
        self._rate = rate
        self.failed: dict[str, list[bool]] = defaultdict(list)  # by label

    def outcome(self, request, failed):
        """Toss a coin of its own for each request."""
        label = ''.join(request.condition.names)
        luck = np.random.default_rng([request.seed, request.trial, *label.encode()]).random()
        self.failed[label].append(luck < self._rate(label))
        return Outcome('failure' if self.failed[label][-1] else 'success')


def ending(outcome: Callable[[RolloutRequest], str]) -> Coins:
    """Return a runner whose rollouts end in the verdict that outcome returns."""
    runner = Coins(together())
    runner.outcome = lambda request, failed: Outcome(outcome(request))
    return runner


def together(*members: str, rate: float = 1.0, otherwise: float = 0.0) -> Callable[[str], float]:
    """Return the rates of what fails at one rate with all of the members, else at another."""
    return lambda label: rate if set(members) <= set(label) else otherwise


def searched(**failures: tuple[int, int]) -> Evidence:
    """Return the evidence of a search: label -> failures, n; nominal never failed in 20."""
    ends = [End((), 'control', trial, 'success', '') for trial in range(20)]
    for label, (failed, n) in failures.items():
        ends += [End(tuple(label), 'discovery', trial, 'failure' if trial < failed else 'success',
                     '') for trial in range(n)]
    return Evidence(ends)


def look(runner, evidence, suspected=(), rollouts=MANY, seed=0):
    """Return the combinations that are found, and the number of rollouts it took."""
    found = Combinations(CATALOGUE, runner, seed, evidence, suspected)
    used = found.run(rollouts)
    assert used == len(found.asked) <= rollouts
    return found, used


def sets(found: Combinations) -> list[str]:
    """Return the labels of the minimal sets."""
    return [''.join(each.perturbations) for each in found.minimal_sets]


# Minimal sets.

def test_two_that_fail_only_together():
    runner = Coins(together('a', 'b'), parallel=3)
    found, used = look(runner, searched(ab=(2, 3), a=(0, 4), b=(0, 4)))
    minimal, = found.minimal_sets
    assert minimal.perturbations == ('a', 'b') and minimal.shown
    assert (minimal.rate.n, minimal.rate.failures, minimal.rate.interval) == (
        TRIALS, TRIALS, wilson(TRIALS, TRIALS))
    for member, name in zip(minimal.members, 'ab', strict=True):
        assert (member.name, member.without.n, member.without.failures) == (name, TRIALS, 0)
        assert (member.needed.pairs, member.needed.difference) == (TRIALS, 1.0)
        assert member.needed.p == pytest.approx(2 * 0.5**TRIALS)
        assert member.needed.p_holm == pytest.approx(2 * member.needed.p)
    assert used == 4 * TRIALS  # the pair, each alone, and nominal
    assert sorted(runner.ran) == sorted(
        f'confirm/{label}/{k}' for label in ('a', 'b', 'a+b', 'nominal') for k in range(TRIALS))


def test_what_is_idle_is_left_out():
    found, used = look(Coins(together('a', 'b')), searched(abc=(1, 1)))
    assert sets(found) == ['ab'] and found.minimal_sets[0].shown
    assert used == 5 * TRIALS + 4 * TRIALS  # the three and their pairs; then, anew, the two


def test_three_that_fail_only_together():
    found, used = look(Coins(together('a', 'b', 'c')), searched(abc=(1, 1)))
    minimal, = found.minimal_sets
    assert minimal.perturbations == ('a', 'b', 'c') and minimal.shown
    assert [member.name for member in minimal.members] == ['a', 'b', 'c']
    assert {member.needed.p_holm for member in minimal.members} == {6 * 0.5**TRIALS}
    assert used == 5 * TRIALS and not found.interactions


def test_four_are_reduced_to_two():
    found, _ = look(Coins(together('b', 'd')), searched(abcd=(1, 1)))
    assert sets(found) == ['bd'] and found.minimal_sets[0].shown


def test_the_idlest_goes_first():
    def outcome(request):
        weak = 'd' if request.trial % TRIALS == 0 else ''  # fails with d alone once in a while
        needed = {'a', 'b', *weak}
        return 'failure' if needed <= set(request.condition.names) else 'success'

    runner = ending(outcome)
    found, _ = look(runner, searched(abcd=(1, 1)))
    assert sets(found) == ['ab']
    assert f'confirm/a+b+d/{TRIALS}' in runner.ran  # c, wholly idle, is left out before d
    assert f'confirm/a+b+c/{TRIALS}' not in runner.ran


def test_a_smaller_set_is_judged_by_trials_that_had_no_part_in_choosing_it():
    def outcome(request):
        early = request.trial < FIRST_TRIAL + TRIALS
        return 'failure' if {'a', 'b'} <= set(request.condition.names) and early else 'success'

    found, used = look(ending(outcome), searched(abc=(1, 1)))
    assert not found.minimal_sets and used == 5 * TRIALS + 2 * TRIALS


def test_what_failed_by_chance_is_dropped():
    runner = Coins(lambda label: 0.05)
    found, used = look(runner, searched(ab=(1, 1), cde=(1, 1)))
    assert not found.minimal_sets and not found.interactions
    assert used == 3 * TRIALS  # either stack and nominal
    assert runner.failed.keys() == {'ab', 'cde', ''}


def test_what_one_of_them_explains_is_no_minimal_set():
    runner = Coins(together('a'))
    found, used = look(runner, searched(ab=(3, 3), ac=(2, 2), bc=(1, 9)))
    assert not found.minimal_sets
    assert runner.failed.keys() == {'', 'ab', 'a', 'b', 'bc'}  # by then it is known that a fails
    assert used == 5 * TRIALS


def test_stacks_with_one_that_is_suspected_are_passed_over():
    runner = Coins(together('a', 'b'))
    evidence = searched(ab=(3, 3), a=(3, 4), cd=(1, 1))
    found, used = look(runner, evidence, suspected=['a'])
    assert not found.minimal_sets and runner.failed.keys() == {'', 'cd'}
    found, _ = look(Coins(together('a', 'b')), evidence, suspected=['b', 'c', 'd'])
    assert sets(found) == ['ab']  # of these, none was seen to fail


def test_a_stack_with_a_known_minimal_set_in_it_is_passed_over():
    runner = Coins(together('a', 'b'))
    found, used = look(runner, searched(abc=(3, 3), ab=(3, 3), abcde=(1, 1)))
    assert sets(found) == ['ab'] and used == 4 * TRIALS


def test_a_member_without_a_valid_rollout_is_not_shown_to_be_needed():
    def outcome(request):
        if request.condition.names == ('a',):
            return 'invalid'
        return 'failure' if len(request.condition) == 2 else 'success'

    found, _ = look(ending(outcome), searched(ab=(1, 1)))
    minimal, = found.minimal_sets
    without = {member.name: member for member in minimal.members}
    assert not minimal.shown
    assert without['b'].without.n == 0 and without['b'].needed.difference is None
    assert without['a'].needed.p_holm < 0.05
    assert not found.interactions


def test_invalid_rollouts_do_not_count():
    def outcome(request):
        if len(request.condition) < 2:
            return 'success'
        return 'invalid' if request.trial % 2 else 'failure'

    found, used = look(ending(outcome), searched(ab=(1, 1)))
    minimal, = found.minimal_sets
    assert minimal.rate.n == TRIALS // 2 and used == 4 * TRIALS
    assert not minimal.shown  # six pairs: 2 * 2 * 0.5**6 > 0.05
    assert found.interactions[0].rate.n == TRIALS // 2


# Interactions.

def test_synergy_is_an_interaction():
    found, _ = look(Coins(together('a', 'b')), searched(ab=(2, 3)))
    both, = found.interactions
    assert both.perturbations == ('a', 'b') and both.verdict == 'more than its members'
    assert (both.rate.n, both.rate.failures) == (TRIALS, TRIALS)
    assert both.expected == 0.0 and both.excess == 1.0
    assert 0.5 < both.interval[0] < 0.8 and both.interval[1] <= 1.0


def test_pairs_of_a_suspect_are_looked_at_for_interactions():
    def rate(label):
        return {'ab': 1.0, 'a': 0.25}.get(label, 0.0)

    runner = Coins(rate)
    found, used = look(runner, searched(ab=(5, 5), a=(2, 6), ac=(1, 4)), suspected=['a'])
    assert not found.minimal_sets and used == 4 * TRIALS
    both, = found.interactions
    assert both.perturbations == ('a', 'b') and both.verdict == 'more than its members'


def count(failures: int, n: int = TRIALS) -> dict[int, bool]:
    """Return that many failures of n."""
    return {trial: trial < failures for trial in range(n)}


@pytest.mark.parametrize('both, first, second, nominal, expected, verdict', [
    (12, 0, 0, 0, 0.0, 'more than its members'),
    (11, 6, 6, 0, 0.75, 'not shown'),
    (6, 6, 0, 0, 0.5, 'not shown'),  # the second is idle
    (9, 6, 6, 6, 0.5, 'not shown'),  # what fails nominally is in all of them
    (0, 12, 0, 0, 1.0, 'less than its members'),  # the second takes away what the first does
    (12, 12, 12, 12, 1.0, 'not shown'),
    (0, 0, 0, 3, 0.0, 'not shown')])  # better alone than nominal: no rate is below 0
def test_interaction(both, first, second, nominal, expected, verdict):
    found = interaction(('a', 'b'), count(both), count(first), count(second), count(nominal))
    assert found.expected == pytest.approx(expected)
    assert found.excess == pytest.approx(both / 12 - expected)
    assert found.verdict == verdict
    assert (found.interval[0] > 0) == (verdict == 'more than its members')
    assert (found.interval[1] < 0) == (verdict == 'less than its members')


def test_interval_of_the_excess_narrows_to_the_truth():
    n = 4000
    found = interaction(('a', 'b'), count(3600, n), count(800, n), count(1200, n), count(400, n))
    true = 0.9 - (1 - 0.8 * 0.7 / 0.9)
    assert found.excess == pytest.approx(true)
    assert found.interval[0] < true < found.interval[1] < found.interval[0] + 0.08


@pytest.mark.parametrize('a, b, nominal, alike', [
    (0.05, 0.05, 0.0, 0.0), (0.3, 0.2, 0.05, 0.0), (0.5, 0.5, 0.1, 0.0), (0.3, 0.3, 0.1, 1.0),
    (0.8, 0.1, 0.1, 0.5)])
def test_independent_members_seldom_seem_to_interact(a, b, nominal, alike):
    """
    Of 300 pairs whose members act independently, at most 5% may seem to fail more; 0.7 to 2.7% do.

    alike: the share of the trials whose luck all four conditions have in common.
    """
    generator = np.random.default_rng(0)
    rates = [float(independent(a, b, nominal)), a, b, nominal]
    luck = np.where(generator.random((300, 1, TRIALS)) < alike,
                    generator.random((300, 1, TRIALS)), generator.random((300, 4, TRIALS)))
    failed = luck < np.array(rates)[:, None]
    verdicts = Counter(
        interaction(('a', 'b'), *(dict(enumerate(map(bool, each))) for each in conditions)).verdict
        for conditions in failed)
    assert verdicts['more than its members'] <= 0.05 * 300


# How often it is right.

def repeated(rate: Callable[[str], float], evidence: Evidence) -> list[Combinations]:
    """Return what is found by 100, each with its own luck."""
    return [look(Coins(rate), evidence, seed=seed)[0] for seed in range(100)]


def test_it_finds_what_it_should():
    """
    Two that fail at 0.9 together are found, and shown, in a stack with a third that is idle.

    Seen, of 100 such stacks: 89 are; of the others all three were found, and none shown.
    """
    found = repeated(together('a', 'b', rate=0.9, otherwise=0.05), searched(abc=(1, 1)))
    right = [each for each in found if sets(each) == ['ab'] and each.minimal_sets[0].shown]
    wrong = [minimal for each in found for minimal in each.minimal_sets
             if minimal.shown and minimal.perturbations != ('a', 'b')]
    assert len(right) > 80 and len(wrong) <= 5


@pytest.mark.parametrize('rate', [0.3, 0.6, 0.9])
def test_it_seldom_shows_what_is_not(rate):
    """Of 100 stacks of which one member does it all, at most 5 may be shown; 0, 1 and 0 are."""
    found = repeated(together('a', rate=rate, otherwise=0.05), searched(ab=(1, 1)))
    assert sum(each.minimal_sets[0].shown for each in found if each.minimal_sets) <= 5


def test_rates_are_honest_although_rollouts_go_on_where_a_set_was_chosen():
    """Of the Wilson intervals of 100 reductions, 96.2% hold the rate, 93.8% where they went on."""
    rates = {0: 0.1, 1: 0.2, 2: 0.4, 3: 0.6}
    covered = []
    for seed in range(100):
        runner = Coins(lambda label: rates[len(label)])
        look(runner, searched(abc=(1, 1)), seed=seed)
        for label, failed in runner.failed.items():
            low, high = wilson(sum(failed), len(failed))
            covered.append(low <= rates[len(label)] <= high)
    assert np.mean(covered) > 0.93


# The budget and the ledger.

EVIDENCE = searched(abc=(3, 4), de=(2, 4), ad=(2, 3), ce=(1, 9), a=(0, 5))


def mixed(label: str) -> float:
    """Return rates of which every kind of decision comes."""
    return 0.95 if {'a', 'b'} <= set(label) else 0.6 if label == 'de' else 0.1


def told(found: Combinations):
    """Return all that it says."""
    return found.minimal_sets, found.interactions, found.asked


@pytest.mark.parametrize('rollouts', range(0, 200, 7))
def test_no_more_rollouts_than_it_may(rollouts):
    runner = Coins(mixed, parallel=2)
    found, used = look(runner, EVIDENCE, rollouts=rollouts)
    assert used == len(runner.ran) == len(set(runner.ran))
    if rollouts < 4 * TRIALS:
        assert used == 0


@pytest.mark.parametrize('rollouts', [4 * TRIALS - 1, 4 * TRIALS])
def test_all_or_nothing(rollouts):
    found, used = look(Coins(together('d', 'e')), searched(de=(1, 1)), rollouts=rollouts)
    assert (sets(found), used) == ((['de'], rollouts) if rollouts == 4 * TRIALS else ([], 0))


def test_a_stack_too_dear_is_passed_over():
    found, used = look(Coins(together('d', 'e')), searched(abc=(5, 5), de=(1, 1)), rollouts=50)
    assert sets(found) == ['de'] and used == 48


def test_the_order_of_results_does_not_matter():
    assert len({repr(told(look(Coins(mixed, parallel), EVIDENCE, rollouts=190)[0])[:2])
                for parallel in (1, 2, 7)}) == 1


def a_ledger(out: Path) -> Ledger:
    """Open the ledger of a run."""
    asked = {'policy_digest': 'b' * 64, 'model_digest': 'c' * 64, 'rollouts': MANY}
    return Ledger(out, asked | {'horizon': HORIZON}, ['policy_digest'], 'robomd diagnose', {})


def test_it_goes_on_wherever_it_was_stopped(tmp_path):
    whole, used = look(Coins(mixed, 2), EVIDENCE, rollouts=190)
    assert whole.minimal_sets and whole.interactions and used > 100
    ran: list[str] = []

    class Stopping(Coins):
        """Gives up after a few rollouts."""

        def outcome(self, request, failed):
            if len(self.ran) == 11:
                raise RunnerError('That is enough.')
            return super().outcome(request, failed)

    stops = 0
    while True:
        runner = Stopping(mixed, 2)
        with a_ledger(tmp_path) as ledger:
            try:
                found, again = look(LedgeredRunner(runner, ledger), EVIDENCE, rollouts=190)
            except RunnerError:
                stops += 1
                continue
            finally:
                ran += runner.ran
        break
    assert told(found) == told(whole) and again == used
    assert sorted(ran) == sorted(whole.asked) and stops == used // 11


def test_of_a_whole_diagnosis(tmp_path):
    """PPO meets a pair that fails only together among three perturbations."""
    asked = settings(tmp_path, searcher='ppo', rollouts=220, confirm_share=0.7,
                     max_perturbations=2)
    found = a_diagnosis(asked, Coins(together('b', 'd')), catalogue=replace(
        CATALOGUE, perturbations=tuple(CATALOGUE[name] for name in 'bde')))
    minimal, = found.minimal_sets
    both, = found.interactions
    assert minimal.perturbations == both.perturbations == ('b', 'd')
    assert minimal.shown and both.verdict == 'more than its members'
    row = next(row for row in found.conditions if row.perturbations == ('b', 'd'))
    assert (row.source, row.n, row.failure_rate) == ('confirmation', TRIALS, 1.0)
    assert not found.failure_modes
