# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The reports: what is said of a failure map in words, and its table in a terminal."""

from dataclasses import replace
import re

from maps import a_map, a_pair, a_set, DONE, four, outwards, RATES, row, stack
import numpy as np
import pytest
from robomd_ros.diagnosis.failure_map import MapRow
from robomd_ros.diagnosis.statistics import confidence_sequence, wilson
from robomd_ros.reports import findings, headline, map_table
from robomd_ros.reports.table import percents


def times(interval: tuple[float, float]) -> str:
    """Return the ends of an interval as sentences have them."""
    low, high = outwards(interval)
    return f'{low} to {high}'


def per_cent(interval: tuple[float, float]) -> str:
    """Return an interval as the table has it."""
    low, high = outwards(interval)
    return f'{low}–{high}%'


@pytest.mark.parametrize(('interval', 'written'), [
    ((0.0, 1.0), '0–100%'), ((0.0949, 0.1501), '9–16%'), ((0.0951, 0.1499), '9–15%'),
    ((0.29, 0.57), '29–57%'), ((0.07, 0.14), '7–14%')])
def test_intervals_are_rounded_outwards(interval: tuple[float, float], written: str):
    assert percents(interval) == written == per_cent(interval)


# Sentences.

def test_a_failure_mode_is_a_sentence():
    said = findings(four())
    nominal = times(wilson(1, 20))
    assert said[:3] == [
        f'"Change to {name}" fails {times(wilson(*RATES[name]))} times in 100; {nominal} in the '
        'nominal scene; 20 rollouts each.' for name in ('red_table', 'big_cube', 'blue_cube')]
    assert len(said) == 3  # gray_robot's four failures of 20 may be chance


def test_numbers_of_rollouts_that_differ_are_said():
    said, = findings(a_map([row('a', 40, 40)], nominal=(3, 62)))
    assert said.endswith('; 40 rollouts, nominal 62.')


def test_a_full_stop_of_the_catalogue_does_not_end_the_sentence():
    said, = findings(a_map([row('a', 20, 20, sentence='Paint it red.')]))
    assert said.startswith('"Paint it red" fails ')


def test_discovery_alone_is_suspected():
    said, = findings(a_map([row('a', discovery=(15, 20)), row('b', discovery=(3, 4))]))
    assert said == (
        f'"Change to a" is suspected, not confirmed, to fail {times(confidence_sequence(15, 20))} '
        'times in 100 (20 rollouts, chosen by the searcher); '
        f'{times(wilson(1, 20))} in the nominal scene.')


def test_confirmation_overrules_discovery():
    said, = findings(a_map([row('a', 1, 20, discovery=(20, 20))]))
    assert said.startswith('No failure mode is shown; ')


def test_nothing_is_a_failure_mode_before_the_end():
    so_far = findings(four(stopped=''))
    assert so_far and all('is suspected, not confirmed' in said and 'so far' in said
                          for said in so_far)
    low, high = confidence_sequence(20, 20)
    assert f'to fail {times((low, high))} times in 100' in so_far[0]
    assert f'{times(confidence_sequence(1, 20))} in the nominal scene' in so_far[0]
    assert headline(four(stopped='')) == '2 of 4 perturbations are suspected so far, none is ' \
        'confirmed'  # of blue_cube the anytime-valid interval is too wide


def test_better_than_nominal():
    nothing, better = findings(a_map([row('a', 1, 40)], nominal=(20, 40)))
    assert nothing.startswith('No failure mode is shown; ')
    assert better == (
        f'"Change to a" fails less often than the nominal scene: {times(wilson(1, 40))} times in '
        f'100, against {times(wilson(20, 40))}; 40 rollouts each.')


@pytest.mark.parametrize(('names', 'rates'), [
    (('a', 'b'), 'without a, {0} and without b, {0}'),
    (('a', 'b', 'c'), 'without a, {0}, without b, {0} and without c, {0}')])
def test_minimal_sets(names: tuple[str, ...], rates: str):
    rows = [row(name, 1, 20) for name in names]
    quoted = [f'"Change to {name}"' for name in names]
    listed = f'{", ".join(quoted[:-1])} and {quoted[-1]}'
    known = a_map(rows, minimal_sets=(a_set(*names),))
    said, = findings(known)
    assert said == (
        f'{listed} fail together, {times(wilson(11, 12))} times in 100; '
        f'{rates.format(times(wilson(1, 12)))}; 12 rollouts each.')
    doubtful = a_map(rows, minimal_sets=(a_set(*names, shown=False),))
    assert findings(doubtful)[0].endswith('suspected, not shown.')
    assert headline(known).endswith('; 1 combination of them fails')
    assert 'combination' not in headline(doubtful)


def test_interactions():
    more = a_pair('a', 'b', excess=0.5, interval=(0.196, 0.701), verdict='more than its members')
    less = a_pair('a', 'c', excess=-0.2, interval=(-0.396, -0.104),
                  verdict='less than its members')
    none = a_pair('b', 'c', excess=0.1, interval=(-0.1, 0.3), verdict='not shown')
    rows = [row('a', 20, 20), row('b', 1, 20), row('c', 1, 20)]
    _, *said = findings(a_map(rows, interactions=(more, less, none)))
    ends = f'{times(wilson(9, 12))} times in 100'
    assert said == [
        '"Change to a" and "Change to b" together fail 19 to 71 points more often than the '
        f'changes alone explain: {ends}, where 25 would be expected; 12 rollouts.',
        '"Change to a" and "Change to c" together fail 10 to 40 points less often than the '
        f'changes alone explain: {ends}, where 95 would be expected; 12 rollouts.']
    known = a_map(rows, interactions=(more,), minimal_sets=(a_set('a', 'b'),))
    assert not any('explain' in text for text in findings(known))  # the set says it already


def test_if_nothing_is_shown_it_says_what_could_hide():
    said, = findings(a_map([row('a', 1, 20), row('b', 0, 4), row('c')]))
    assert said == (
        f'No failure mode is shown; one that fails up to {outwards(wilson(0, 4))[1]} times in 100 '
        'could still hide, as "Change to b" with its 4 rollouts might; of 1 change nothing is '
        'known.')


@pytest.mark.parametrize(('rows', 'nominal', 'why'), [
    ([], (1, 20), 'no change has a valid rollout'), ([row('a')], (1, 20), 'no change has a'),
    ([row('a', 20, 20)], (0, 0), 'the nominal scene, to compare with, has no valid rollout')])
def test_if_nothing_can_be_said_it_says_why(
        rows: list[MapRow], nominal: tuple[int, int], why: str):
    said, = findings(a_map(rows, nominal=nominal))
    assert said.startswith('No failure mode is shown: ') and why in said


@pytest.mark.parametrize(('rows', 'sentence'), [
    ([], 'No perturbation has a valid rollout yet'),
    ([row('a')], 'No perturbation has a valid rollout yet'),
    ([row('a', 20, 20)], '1 of 1 perturbation is a failure mode'),
    ([row('a', 20, 20), row('b', 20, 20), row('c', 2, 20)],
     '2 of 3 perturbations are failure modes'),
    ([row('a', 20, 20), row('b', discovery=(20, 20)), row('c')],
     '1 of the 2 perturbations tried is a failure mode, 1 more is suspected'),
    ([row('a', discovery=(20, 20)), row('b', 1, 20)],
     '1 of 2 perturbations is suspected, none is confirmed'),
    ([row('a', 1, 20), row('b', 0, 4)], 'No failure mode is shown among 2 perturbations'),
])
def test_headline(rows: list[MapRow], sentence: str):
    assert headline(a_map(rows)) == sentence


# The table.

def cells(line: str) -> list[str]:
    """Return the cells of a line of the table."""
    return re.split(' {2,}', line.strip())


def line_of(text: str, name: str) -> str:
    """Return the line of the perturbation."""
    return next(line for line in text.splitlines() if re.search(rf'\b{name}\b', line))


def test_table_ranks_and_counts():
    text = map_table(four())
    names = re.findall(r'^(?: *\d+)? +[●○▽]? +(\w+) +\d+ / ', text, re.MULTILINE)
    assert names == ['nominal', *RATES]
    assert cells(line_of(text, 'big_cube'))[:6] == [
        '2', '●', 'big_cube', '17 / 20', '85%', per_cent(wilson(17, 20))]


def test_marks_are_the_verdicts():
    text = map_table(a_map([
        row('bad', 40, 40), row('maybe', discovery=(20, 20)), row('same', 20, 40),
        row('good', 2, 40)], nominal=(20, 40)))
    marks = {name: cells(line_of(text, name))[1] for name in ('bad', 'maybe', 'same', 'good')}
    assert marks == {'bad': '●', 'maybe': '○', 'same': 'same', 'good': '▽'}
    assert all(f'{mark} {word}' in text for mark, word in (
        ('●', 'failure mode:'), ('○', 'suspected, not confirmed:'), ('▽', 'better than nominal:')))
    assert '▽' not in map_table(four())


def test_discovery_is_apart():
    text = map_table(a_map([row('both', 10, 20, discovery=(7, 9)),
                            row('hint', discovery=(5, 8))]))
    assert cells(line_of(text, 'perturbation'))[2:6] == ['failed', 'rate', 'interval', 'discovery']
    assert cells(line_of(text, 'both'))[3:7] == [
        '10 / 20', '50%', per_cent(wilson(10, 20)), '7 / 9']
    assert cells(line_of(text, 'hint'))[-5:-1] == [
        '–', '–', f'({per_cent(confidence_sequence(5, 8))})', '5 / 8']
    assert 'hint, never pooled' in text.replace('\n', ' ')
    assert 'iscovery' not in map_table(four())


def test_until_the_end_intervals_are_anytime_valid():
    text = map_table(four(stopped=''))
    assert per_cent(confidence_sequence(9, 20)) in line_of(text, 'blue_cube')
    assert 'anytime' in line_of(text, 'perturbation') and 'Wilson' not in text
    assert 'has not ended' in text and DONE not in text
    assert DONE in map_table(four()) and 'Wilson' in map_table(four())


def test_suspicion_is_the_first_number():
    rows = [row(name, *counts, suspicion=0.25, estimate=0.5, search_mass=0.125)
            for name, counts in RATES.items()]
    text = map_table(a_map(rows))
    assert cells(line_of(text, 'perturbation'))[:4] == [
        'rank', 'perturbation', 'suspicion', 'failed']
    line = cells(line_of(text, 'gray_robot'))
    assert line[2] == '0.250' and '50%' in line and '0.125' in line
    assert all(word in text for word in ('Suspicion: ', 'Estimate: ', 'Mass: '))
    assert not any(word in map_table(four()) for word in ('uspicion', 'stimate', 'ass:'))


def test_bars_of_the_table_are_as_long_as_the_interval():
    text = map_table(a_map([row('blue_cube', 9, 20), row('hint', discovery=(10, 20))]))
    width = len(re.search('0% +100%', text)[0])
    bar = line_of(text, 'blue_cube')
    lengths = bar.count('█'), bar.count('▓'), bar.count('░')
    low, high = wilson(9, 20)
    assert np.cumsum(lengths) == pytest.approx(np.array([low, 9 / 20, high]) * width, abs=0.5)
    bar = line_of(text, 'hint')
    low, high = confidence_sequence(10, 20)
    assert set('█▓').isdisjoint(bar)
    assert bar.count('░') == pytest.approx((high - low) * width, abs=1)


@pytest.mark.parametrize('rows', [
    [],
    [row('red_table')],
    [row('red_table', invalid=12)],
    [row('red_table', 750_000, 1_000_000, search_mass=0.5)],
    [row(f'a_name_that_is_far_too_long_for_a_table_{i}', 1, 2, (999, 9999), search_mass=0.01,
         suspicion=0.1, estimate=0.9) for i in range(150)],
])
@pytest.mark.parametrize('stopped', [DONE, ''])
def test_table_fits_a_terminal(rows: list[MapRow], stopped: str):
    known = a_map(rows, nominal=(0, 0), stopped=stopped)
    settings = {**known.settings, 'policy': 'robomimic:/' + 'a/very/long/path/' * 20}
    lines = map_table(replace(known, settings=settings)).splitlines()
    assert max(map(len, lines)) <= 96
    assert sum(bool(re.match(r' *\d+ +', line)) for line in lines) == sum(
        each.n > 0 for each in rows)


def test_table_says_what_was_not_tried():
    text = map_table(a_map([row('red_table'), row('big_cube', invalid=3)]))
    assert re.search('red_table +not tried +– +–', text)
    assert re.search('big_cube +3 invalid +– +–', text)


def test_shares_are_not_rounded_to_never_and_always():
    text = map_table(a_map([row('a', 999, 1000), row('b', 1, 1000)]))
    assert re.search(r'999 / 1,000 +>99%', text) and re.search(r' 1 / 1,000 +<1%', text)


def test_stacks_are_not_in_the_table():
    known = four(conditions=(stack('red_table', 'big_cube', counts=(9, 9)),))
    assert map_table(known) == map_table(four())
