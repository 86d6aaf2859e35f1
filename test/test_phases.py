# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searchers that learn in phases, ppo and a2c: they go on exactly where they stopped."""

from contextlib import closing
from functools import partial
from pathlib import Path
import shutil
import sqlite3
import threading

from coin_runner import (
    a_diagnosis,
    a_picture,
    a_search,
    CATALOGUE,
    CoinRunner,
    killed_at_random,
    read_map,
    settings,
)
import numpy as np
import pytest
from robomd_ros.conditions import Condition
from robomd_ros.diagnosis import a2c, on_policy, ppo, run
from robomd_ros.diagnosis.watching import DiagnosisCanceled
from robomd_ros.errors import UserError
from robomd_ros.rollouts.protocol import RunnerError
from robomd_ros.worlds.protocol import Outcome
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.save_util import load_from_zip_file
import torch

ROLLOUTS = 48  # of which 20 are control rollouts: phases of 12, 12 and 4 for ppo
SEARCH = 28
MODULES = {'ppo': ppo, 'a2c': a2c}


def hurry() -> None:
    """Have ppo learn after every 12 rollouts, so that there are several phases, and little."""
    ppo.PHASE = 12
    ppo.PAPER['n_epochs'] = 2


@pytest.fixture(scope='module', autouse=True)
def hurried():
    """Hurry in all tests of this file, and only in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, 'PHASE', ppo.PHASE)
        patch.setitem(ppo.PAPER, 'n_epochs', ppo.PAPER['n_epochs'])
        hurry()
        yield


@pytest.fixture(scope='module', params=['ppo', 'a2c'])
def searcher(request):
    """Return the searcher's name."""
    return request.param


def searched(searcher: str, out: Path, runner: CoinRunner, rollouts: int = ROLLOUTS, seed: int = 0,
             stop: str = 'budget', **others) -> run.FailureMap:
    """Return what a diagnosis of the coins finds that is a search and nothing else."""
    asked = settings(out, searcher=searcher, rollouts=rollouts, confirm_share=0.0, seed=seed,
                     stop=stop)
    return a_diagnosis(asked, runner, **others)


def checkpoint(out: Path) -> Path:
    """Return the path of the search's only checkpoint."""
    path, = (out / 'checkpoints').iterdir()
    return path


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights and the optimizer's state that the checkpoint has, by name."""
    _, parameters, _ = load_from_zip_file(checkpoint(out))
    moments = {f'{number}.{name}': torch.as_tensor(value)
               for number, entry in parameters['policy.optimizer']['state'].items()
               for name, value in entry.items()}
    return parameters['policy'] | moments


def same_weights(one: Path, other: Path) -> bool:
    """Return whether two checkpoints are equal bit for bit."""
    a, b = weights(one), weights(other)
    assert len(a) > 30 and a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def rollouts(out: Path) -> dict[str, tuple]:
    """Return what was run, by key: the conditions tell which actions were taken."""
    with closing(sqlite3.connect(out / 'ledger.sqlite')) as database:
        return {row[0]: row[1:] for row in database.execute(
            'SELECT key, trial, purpose, probability, condition, seed, verdict, steps '
            'FROM rollouts WHERE ended IS NOT NULL')}


def same(one: Path, other: Path) -> bool:
    """Return whether two searches ran the same and learnt the same."""
    a, b = read_map(one), read_map(other)
    return (rollouts(one) == rollouts(other) and same_weights(one, other)
            and (a.nominal, a.perturbations) == (b.nominal, b.perturbations))


@pytest.fixture(scope='module')
def whole(searcher, tmp_path_factory):
    """Return the directories of searches that nothing interrupted, by how many ran at a time."""
    outs = {parallel: tmp_path_factory.mktemp('whole') for parallel in (1, 2)}
    for parallel, out in outs.items():
        searched(searcher, out, CoinRunner(parallel))
    return outs


# The budget.

@pytest.mark.parametrize('steps', [lambda parallel: 64 // parallel, lambda parallel: 5])
@pytest.mark.parametrize('parallel', [1, 2, 3, 5, 8])
@pytest.mark.parametrize('number, control', [(12, 1), (44, 20), (100, 20), (300, 30), (501, 50)])
def test_budget_is_spent_to_the_last_rollout(number, control, parallel, steps):
    plan = on_policy.Plan(number, control, parallel, steps(parallel))
    controls = [plan.controls(phase) for phase in range(plan.phases + 1)]
    assert control <= controls[-1] == number - plan.search < control + parallel
    lengths = [plan.length(phase) for phase in range(plan.phases)]
    assert sum(lengths) * parallel == plan.search
    assert all(length == plan.steps for length in lengths[:-1]) and 0 < lengths[-1] <= plan.steps
    before = np.array([plan.before(phase) for phase in range(plan.phases + 1)])
    assert np.array_equal(before, parallel * np.cumsum([0, *lengths]))
    assert np.abs(controls - controls[-1] * before / plan.search).max() <= 1  # evenly
    assert controls[0] == 1 and sorted(controls) == controls


def test_control_rollouts_are_spread_over_the_search(tmp_path, searcher):
    runner = CoinRunner()
    MODULES[searcher].search(a_search(runner, ROLLOUTS, 20, checkpoints=tmp_path))
    assert len(set(runner.ran)) == ROLLOUTS
    before = {'ppo': [1, 9, 17], 'a2c': [1, 4, 7, 11, 14, 17]}[searcher]
    for phase, controls in enumerate(before):
        place = runner.ran.index(f'{searcher}/{phase}/0/0')
        assert {f'control/{trial}' for trial in range(controls)} == {
            key for key in runner.ran[:place] if key.startswith('control/')}
    assert f'{searcher}/{len(before)}/0/0' not in runner.ran


@pytest.mark.parametrize('parallel, least', [(1, 3), (2, 3), (3, 4), (6, 7)])
def test_budgets_that_are_too_small_are_refused(parallel, least):
    with pytest.raises(UserError, match=f'^{least - 1} rollouts, 1 of .* {parallel} at a time'):
        ppo.check_budget(least - 1, 1, parallel)
    ppo.check_budget(least, 1, parallel)


@pytest.mark.parametrize('parallel, least', [(1, 3), (3, 4)])
def test_least_budget(tmp_path, searcher, parallel, least):
    runner, masses = CoinRunner(parallel), []
    MODULES[searcher].search(
        a_search(runner, least, 1, checkpoints=tmp_path, on_mass=masses.append))
    assert len(set(runner.ran)) == least
    assert np.all(np.isfinite(masses[-1])) and masses[-1].sum() == pytest.approx(1)


def test_last_phase_may_be_of_one_rollout(tmp_path, searcher):
    masses = []
    budget = 1 + {'ppo': 12, 'a2c': 5}[searcher] + 1
    MODULES[searcher].search(
        a_search(CoinRunner(), budget, 1, checkpoints=tmp_path, on_mass=masses.append))
    assert len(masses) == 2 and np.all(np.isfinite(masses[-1]))


@pytest.mark.parametrize('parallel', [1, 2])
def test_no_two_rollouts_of_a_search_share_an_initial_state(whole, searcher, parallel):
    trials = {'control': [], searcher: []}
    for key, (trial, *_) in rollouts(whole[parallel]).items():
        trials[key.split('/')[0]].append(trial)
    assert sorted(trials[searcher]) == list(range(SEARCH))
    assert sorted(trials['control']) == list(range(20))  # shared with the search


def test_two_at_a_time_need_not_wait_for_each_other(tmp_path, searcher):
    """A rollout that takes long holds up its own environment alone, until the phase ends."""
    others = threading.Event()

    def before(request):
        if request.key == f'{searcher}/0/1/4':
            others.set()
        if request.key == f'{searcher}/0/0/0':
            assert others.wait(20)

    MODULES[searcher].search(a_search(CoinRunner(2, before), 15, 1, checkpoints=tmp_path))
    assert others.is_set()


def test_rollouts_run_in_the_calling_thread_if_there_is_but_one_at_a_time(tmp_path, searcher):
    threads = set()
    runner = CoinRunner(1, lambda request: threads.add(threading.current_thread()))
    MODULES[searcher].search(a_search(runner, 15, 5, checkpoints=tmp_path))
    assert threads == {threading.current_thread()}


# What it tells.

def test_search_mass_is_the_preference_in_the_nominal_scene(whole, searcher):
    found = read_map(whole[1])
    model = {'ppo': PPO, 'a2c': A2C}[searcher].load(checkpoint(whole[1]))
    masses = []
    for trial in range(20):
        observation, _ = model.policy.obs_to_tensor(a_picture(Condition(), trial))
        masses.append(model.policy.get_distribution(observation).distribution.probs)
    mass = torch.cat(masses).mean(0).detach().numpy()
    rows = {row.name: row.search_mass for row in found.perturbations}
    assert [rows[name] for name in CATALOGUE.names] == pytest.approx(mass, abs=1e-6)


def test_ledger_has_how_likely_each_choice_was(tmp_path, searcher, monkeypatch):
    expected = {f'control/{trial}': ('control', None) for trial in range(20)}
    learn_phase = on_policy.Learner.learn_phase

    def noted(self, phase, walks, taken):
        for transition in (transition for walk in taken for transition in walk):
            pi = self.policy.get_distribution(torch.tensor(transition.observation[None]))
            expected[transition.info['key']] = 'discovery', pytest.approx(
                pi.distribution.probs[0, transition.action].item(), rel=1e-5)
        learn_phase(self, phase, walks, taken)

    monkeypatch.setattr(on_policy.Learner, 'learn_phase', noted)
    searched(searcher, tmp_path, CoinRunner(2))
    found = {key: (purpose, probability)
             for key, (_, purpose, probability, *_) in rollouts(tmp_path).items()}
    assert found == expected and len(found) == ROLLOUTS
    assert len({probability for _, probability in found.values()}) > SEARCH / 2


# Interrupted and taken up again.

class TiredRunner(CoinRunner):
    """Gives up when it has run so many rollouts."""

    def __init__(self, parallel: int, rollouts: int) -> None:
        super().__init__(parallel, self._tire)
        self._rollouts = rollouts

    def _tire(self, request) -> None:
        if len(self.ran) >= self._rollouts:
            raise RunnerError('the lights went out.')


def interrupted(searcher: str, out: Path, parallel: int, every: int) -> int:
    """Run the search, with the runner giving up each time it has run so many; return how often."""
    for times in range(100):
        runner = TiredRunner(parallel, every)
        try:
            searched(searcher, out, runner)
        except RunnerError as error:
            assert 'lights' in str(error)
        else:
            return times
    raise AssertionError('no end')


@pytest.mark.parametrize('parallel', [1, 2])
def test_interrupted_search_learns_the_same(tmp_path, whole, searcher, parallel, monkeypatch):
    learnt = []
    learn_phase = on_policy.Learner.learn_phase

    def noted(self, phase, *others):
        learnt.append(phase)
        learn_phase(self, phase, *others)

    monkeypatch.setattr(on_policy.Learner, 'learn_phase', noted)
    assert interrupted(searcher, tmp_path, parallel, 9) >= 3
    assert same(tmp_path, whole[parallel])
    phases = {'ppo': 3, 'a2c': 6 // parallel}[searcher]
    assert learnt == list(range(phases))  # the checkpoint saves learning again


def remove(path: Path) -> None:
    """Have it lost."""
    path.unlink()


def tear(path: Path) -> None:
    """Have only a part of it written."""
    path.write_bytes(path.read_bytes()[:100_000])


def flip(path: Path) -> None:
    """Have a byte of it wrong."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    """Have nothing of it written."""
    path.write_bytes(b'')


@pytest.fixture(scope='module')
def canceled(searcher, tmp_path_factory):
    """Return the directory of a search that was stopped in its last phase or the one before."""
    out, runner = tmp_path_factory.mktemp('canceled'), CoinRunner(2)
    with pytest.raises(DiagnosisCanceled):
        searched(searcher, out, runner, should_stop=lambda: len(runner.ran) >= 35)
    return out


@pytest.mark.parametrize('damage', [remove, tear, flip, empty])
def test_ledger_makes_up_for_the_checkpoint(tmp_path, whole, searcher, canceled, damage):
    shutil.copytree(canceled, tmp_path, dirs_exist_ok=True)
    damage(checkpoint(tmp_path))
    rest = CoinRunner(2)
    searched(searcher, tmp_path, rest)
    assert len(rollouts(canceled)) + len(rest.ran) == ROLLOUTS
    assert same(tmp_path, whole[2])


def test_checkpoint_of_another_search_is_not_taken(tmp_path, whole, searcher):
    searched(searcher, tmp_path, CoinRunner(2), seed=1)
    assert not same_weights(tmp_path, whole[2])
    for file in (*tmp_path.glob('ledger*'), tmp_path / 'failure_map.json'):
        file.unlink()
    searched(searcher, tmp_path, CoinRunner(2))
    assert same(tmp_path, whole[2])


def test_checkpoint_that_has_learnt_otherwise_is_not_taken(tmp_path, whole, searcher):
    """One of the right seed, with as many rollouts behind it, all of which are in the ledger."""

    class Unlucky(CoinRunner):

        def outcome(self, request, failed):
            return Outcome('failure')

    searched(searcher, tmp_path / 'other', Unlucky(2))
    shutil.copytree(whole[2], tmp_path / 'run')
    shutil.copy(checkpoint(tmp_path / 'other'), tmp_path / 'run' / 'checkpoints')
    (tmp_path / 'run' / 'failure_map.json').unlink()
    searched(searcher, tmp_path / 'run', CoinRunner(2))
    assert same(tmp_path / 'run', whole[2])


def test_larger_budget_learns_as_if_it_had_been_asked_for_at_once(tmp_path, whole, searcher):
    searched(searcher, tmp_path, CoinRunner(2), 42)  # the last phase is shorter than the others
    runner = CoinRunner(2)
    searched(searcher, tmp_path, runner)
    assert len(runner.ran) == ROLLOUTS - 42
    assert same(tmp_path, whole[2])


def test_complete_search_tells_its_mass_without_a_rollout(tmp_path, whole, searcher):
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / 'failure_map.json').unlink()
    runner = CoinRunner()
    searched(searcher, tmp_path, runner)
    assert same(tmp_path, whole[1]) and not runner.ran


def test_search_that_is_settled_ends_and_stays_what_it_was(tmp_path, searcher, monkeypatch):
    monkeypatch.setattr(
        run, 'settled', lambda rates, top, within: sum(n for _, n in rates) >= 4)
    found = searched(searcher, tmp_path / 'a', CoinRunner(2), stop='settled')
    steps = {'ppo': 12, 'a2c': 10}[searcher]
    ran = [key for key in rollouts(tmp_path / 'a') if key.startswith(searcher)]
    assert 0 < len(ran) < SEARCH and len(ran) % steps == 0
    assert all(row.search_mass for row in found.perturbations)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    checkpoint(tmp_path / 'b').unlink()
    (tmp_path / 'b' / 'failure_map.json').unlink()
    runner = CoinRunner(2)
    searched(searcher, tmp_path / 'b', runner, stop='settled')
    assert same(tmp_path / 'a', tmp_path / 'b') and not runner.ran


def search_until_killed(searcher: str, out: Path, log: Path) -> None:
    """Run the search."""
    hurry()
    searched(searcher, out, CoinRunner(2, log=log, seconds=0.02))


def test_killed_search_learns_the_same(tmp_path, whole, searcher):
    log = tmp_path / 'log'
    run_it = partial(search_until_killed, searcher)
    kills = len(list(killed_at_random(run_it, tmp_path, log, 3, 0.2)))
    run_it(tmp_path, log)
    ran = log.read_text().split()
    assert len(set(ran)) == ROLLOUTS and len(ran) <= ROLLOUTS + 2 * kills  # two ran at each kill
    assert same(tmp_path, whole[2])
