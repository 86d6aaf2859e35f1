# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The gate of a policy's continuous tests: what fails now that did not fail in a baseline."""

from dataclasses import dataclass
from pathlib import Path

from robomd_ros.diagnosis.comparison import differences, SAME
from robomd_ros.diagnosis.failure_map import MapRow
from robomd_ros.diagnosis.reading import Diagnosed, read_diagnosis
from robomd_ros.diagnosis.statistics import compare, CONFIDENCE, hundredths, MARGIN, Paired
from robomd_ros.errors import UserError

ENOUGH = 12  # rollouts of each, for a small difference from the baseline to excuse a mode

PAIRABLE = tuple(name for name in SAME if name != 'catalogue_digest')


@dataclass(frozen=True)
class Verdict:
    """
    What the gate says of a perturbation, or of the nominal scene.

    name: of it. outcome: 'passed', 'failed' or 'skipped', for want of rollouts. sentence: why.
    """

    name: str
    outcome: str
    sentence: str


def read_baseline(directory: Path, out: Path, task: str, horizon: int) -> Diagnosed:
    """
    Return the diagnosis in a folder, to judge by it another one that will be written to out.

    task, horizon: of the other. Raises UserError if it cannot be read or used as a baseline.
    """
    if directory.resolve() == out.resolve():
        raise UserError(f'{directory} cannot be both the baseline and out; give another out.')
    try:
        baseline = read_diagnosis(directory)
    except UserError as error:
        raise UserError(f'There is no baseline to use: {error}') from error
    found = baseline.map
    for name, value in (('task', task), ('horizon', horizon)):
        if found.settings[name] != value:
            raise UserError(f'{directory} cannot be the baseline, its {name} is '
                            f'{found.settings[name]} and not {value}; name another diagnosis, or '
                            f'give the same {name}.')
    if not found.stopped:
        raise UserError(f'{directory} cannot be the baseline, its diagnosis has not ended; give '
                        f'its command again first: {found.command}.')
    if not any(row.versus_nominal for row in found.perturbations):
        raise UserError(f'{directory} cannot be the baseline, it compares no perturbation with '
                        'nominal on the same trials; diagnose anew, with the searcher sweep or a '
                        'larger confirm_share.')
    return baseline


def verdicts(found: Diagnosed, baseline: Diagnosed) -> tuple[Verdict, ...]:
    """
    Return what the gate says of the nominal scene and of every perturbation found.

    Nominal has failed the gate if it fails significantly more often than in the baseline. A
    perturbation has if it is a failure mode and was none in the baseline, unless 12 rollouts or
    more of each say that it fails less than 10 points more often than there: then it is the
    verdict that differs, and not the policy. Rollouts are compared on the same trials if seed,
    horizon, world, its model and fidelity are the same, else as two samples. Perturbations are the
    same if slot and value are; one that the baseline lacks was no failure mode in it.
    """
    paired = not differences(found.map.settings, baseline.map.settings, PAIRABLE)
    known = {(row.slot, row.value): row for row in baseline.map.perturbations}
    each = [_nominal(found, baseline, paired)]
    for row in found.map.perturbations:
        before = known.get((row.slot, row.value))
        if row.verdict != 'failure mode':
            each.append(_no_mode(row, found))
            continue
        what = f'it fails {_rate(row)}; nominal {_rate(found.map.nominal)}'
        if before is None:
            each.append(Verdict(row.name, 'failed', f'{row.name} is a failure mode, and absent '
                                f"from the baseline's catalogue: {what}."))
        elif before.verdict == 'failure mode':
            each.append(Verdict(row.name, 'passed', f'{row.name} is a failure mode, as in the '
                                f'baseline: {what}.'))
        else:
            versus = compare(found.evidence.fixed((row.name,)),
                             baseline.evidence.fixed((before.name,)))
            each.append(_mode(row, before, versus if paired and versus.pairs else None, what))
    return tuple(each)


def new_modes(found: Diagnosed, baseline: Diagnosed) -> tuple[Verdict, ...]:
    """Return those verdicts that have failed the gate; without any there is no regression."""
    return tuple(each for each in verdicts(found, baseline) if each.outcome == 'failed')


def _nominal(found: Diagnosed, baseline: Diagnosed, paired: bool) -> Verdict:
    from scipy.stats import fisher_exact

    now, before = found.map.nominal, baseline.map.nominal
    versus = compare(found.evidence.fixed(()), baseline.evidence.fixed(()))
    if not now.n or not before.n:
        return Verdict('nominal', 'skipped', 'The nominal scene has no valid rollout to compare.')
    if paired and versus.pairs:
        worse, p = versus.more > versus.less, versus.p
        test = f'exact McNemar p = {p:.2g} on {versus.pairs} trials'
    else:
        worse = now.failures * before.n > before.failures * now.n
        p = fisher_exact([[now.failures, now.n - now.failures],
                          [before.failures, before.n - before.failures]]).pvalue
        test = f'Fisher p = {p:.2g}'
    what = f'{_rate(now)}, in the baseline {_rate(before)} ({test}).'
    if worse and p < 1 - CONFIDENCE:
        return Verdict('nominal', 'failed', f'The nominal scene got worse: it fails {what}')
    return Verdict('nominal', 'passed', f'The nominal scene is not shown to be worse: it fails '
                   f'{what}')


def _no_mode(row: MapRow, found: Diagnosed) -> Verdict:
    """Judge what is not shown to be a failure mode now."""
    pairs = row.versus_nominal.pairs if row.versus_nominal else 0
    # Failing on all of them, and nominal on none, would have shown nothing: exact McNemar, Holm.
    if len(found.map.perturbations) * 2 * 0.5 ** pairs >= 1 - CONFIDENCE:
        return Verdict(row.name, 'skipped', f'{row.name} has too few rollouts to be shown to be a '
                       f'failure mode: {pairs} on the same trials as nominal.')
    return Verdict(row.name, 'passed', f'{row.name} is not shown to be a failure mode: it fails '
                   f'{_rate(row)}; nominal {_rate(found.map.nominal)}.')


def _mode(row: MapRow, before: MapRow, versus: Paired | None, what: str) -> Verdict:
    """Judge a failure mode that was not shown to be one before; versus: on common trials."""
    if versus:
        pairs, change = versus.pairs, versus.difference
        was = (f'on the {pairs} trials of both it failed on {versus.more} only now and on '
               f'{versus.less} only in the baseline')
    else:
        pairs, change = min(row.n, before.n), None
        if before.source == 'confirmation' and row.failure_rate is not None:
            change = row.failure_rate - (before.failure_rate or 0.0)
        was = f'in the baseline {_rate(before)}'
    if change is not None and change < MARGIN and pairs >= ENOUGH:
        return Verdict(row.name, 'passed', f'{row.name} is a failure mode that the baseline has '
                       f'not shown, but hardly worse than it was there: {what}; {was}.')
    return Verdict(row.name, 'failed', f'{row.name} is a new failure mode: {what}; {was}.')


def _rate(row: MapRow) -> str:
    if not row.n:
        return 'in none, for want of valid rollouts'
    low, high = hundredths(row.interval)
    return f'{low} to {high} times in 100 ({row.failures} of {row.n} rollouts)'
