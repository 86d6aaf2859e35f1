# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher ppo: it is PPO, it sees, and it goes on exactly where it was interrupted."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
import shutil
import sqlite3
import threading

from coin_runner import (
    a_diagnosis,
    a_picture,
    CATALOGUE,
    CoinRunner,
    killed_at_random,
    settings,
)
import numpy as np
import pytest
from robomd_ros.conditions import Condition
from robomd_ros.diagnosis import ppo, run
from robomd_ros.diagnosis.environment import Search
from robomd_ros.errors import UserError
from robomd_ros.rollouts.protocol import RunnerError
from robomd_ros.worlds.protocol import Outcome
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
import torch

PHASE = 12  # rollouts, so that a test has time for several phases
ROLLOUTS = 31  # of which 3 are control rollouts: phases of 12, 12 and 4
PAPERS_EPOCHS = ppo.PAPER['n_epochs']
torch.set_num_threads(1)


def hurry() -> None:
    """Have phases of 12 rollouts and little training after each."""
    run.SEARCHERS['ppo'] = partial(ppo.search, phase=PHASE)
    ppo.PAPER['n_epochs'] = 2


@pytest.fixture(scope='module', autouse=True)
def hurried():
    """Hurry in all tests of this file, and only in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, 'SEARCHERS', dict(run.SEARCHERS))
        patch.setattr(ppo, 'PAPER', dict(ppo.PAPER))
        hurry()
        yield


def a_search(out: Path, runner: CoinRunner, rollouts: int = ROLLOUTS, **others):
    """Diagnose the coins with PPO."""
    asked = settings(out, searcher='ppo', rollouts=rollouts)
    return a_diagnosis(asked, runner, **others)


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Return the weights and the optimizer's state that the checkpoint has, by name."""
    model = PPO.load(out / 'checkpoints' / 'ppo.zip')
    state = model.policy.optimizer.state_dict()['state']
    moments = {f'{number}.{name}': value for number, entry in state.items()
               for name, value in entry.items()}
    return model.policy.state_dict() | moments


def same_weights(one: Path, other: Path) -> bool:
    """Return whether two checkpoints are equal bit for bit."""
    a, b = weights(one), weights(other)
    assert len(a) > 30 and a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def read_map(out: Path) -> run.FailureMap:
    """Return what is in the file."""
    return run.FailureMap.from_json((out / 'failure_map.json').read_text())


def rollouts(out: Path) -> list[tuple]:
    """Return what was run, by key: the conditions tell which actions were taken."""
    with closing(sqlite3.connect(out / 'ledger.sqlite')) as database:
        return database.execute(
            'SELECT key, condition, seed, trial, verdict, steps FROM rollouts '
            'WHERE ended IS NOT NULL ORDER BY key').fetchall()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Return the directories of searches that nothing interrupted, by how many ran at a time."""
    outs = {parallel: tmp_path_factory.mktemp('whole') for parallel in (1, 2)}
    for parallel, out in outs.items():
        a_search(out, CoinRunner(parallel))
    return outs


# The budget.

@pytest.mark.parametrize('parallel', [1, 2, 3, 5, 8])
@pytest.mark.parametrize('number', [12, 44, 100, 500, 501])
def test_budget_is_spent_to_the_last_rollout(number, parallel):
    plan = ppo.Plan(number, parallel, 64 // parallel)
    control = number - plan.search
    assert number / 10 - 0.51 <= control < number / 10 + 0.51 + parallel
    assert sum(plan.phases) * parallel == plan.search
    assert all(steps == plan.steps for steps in plan.phases[:-1])
    assert 0 < plan.phases[-1] <= plan.steps
    controls = [plan.controls(phase) for phase in range(len(plan.phases) + 1)]
    assert controls[0] == 1 and controls[-1] == control and sorted(controls) == controls
    share = np.diff(controls) / np.diff([plan.before(p) for p in range(len(plan.phases) + 1)])
    if number >= 100:
        assert share[:-1].max(initial=0.1) < 0.2


def test_control_rollouts_are_spread_over_the_search(tmp_path):
    runner = CoinRunner()
    a_search(tmp_path, runner, 42)  # phases of 12, 12, 12 and 2
    assert runner.ran[0] == 'control/0'
    places = [runner.ran.index(f'control/{trial}') for trial in range(4)]
    phases = [runner.ran.index(f'ppo/{phase}/0/0') for phase in range(4)]
    assert places[0] < phases[1] < places[1] < phases[2] < places[2] < phases[3] < places[3]


@pytest.mark.parametrize('number, parallel, least', [(3, 2, 3), (3, 3, 4), (5, 6, 7)])
def test_least_budget(tmp_path, number, parallel, least):
    if number < least:
        with pytest.raises(UserError, match=f'{parallel} at a time; ask for {least} or more'):
            a_search(tmp_path, CoinRunner(parallel), number)
        assert not list(tmp_path.iterdir())
    found = a_search(tmp_path, CoinRunner(parallel), least)
    assert found.budget['done'] == least
    assert all(np.isfinite(row.search_mass) for row in found.perturbations)


@pytest.mark.parametrize('parallel', [1, 2])
def test_every_control_rollout_has_the_initial_state_of_one_of_the_search(whole, parallel):
    trials = {'control': [], 'ppo': []}
    for key, _, _, trial, *_ in rollouts(whole[parallel]):
        trials[key.split('/')[0]].append(trial)
    assert sorted(trials['control']) == [0, 1, 2]
    assert sorted(trials['ppo']) == list(range(28))


def test_reward_and_length_of_episodes_reach_the_environment(tmp_path):
    asked = settings(tmp_path, searcher='ppo', rollouts=ROLLOUTS, max_perturbations=1)
    assert not a_diagnosis(asked, CoinRunner()).conditions
    plan = ppo.Plan(ROLLOUTS, 1, PHASE)
    search = Search(CATALOGUE, CoinRunner(), ROLLOUTS, 5, Path('none'), lambda key: None,
                    lambda mass: None, reward='flat')
    walk = ppo.Walk(0, search, plan)
    walk.restart()
    rewards = {walk.environment.step(0)[1] for _ in range(20)}
    assert rewards == {1.0, -0.5}


# It is PPO.

def a_model(runner: CoinRunner, rollouts: int = ROLLOUTS) -> tuple[ppo.SearchPPO, list[ppo.Walk]]:
    """Return a model that has learnt nothing yet, and its environments."""
    plan = ppo.Plan(rollouts, runner.parallel, PHASE // runner.parallel)
    search = Search(
        CATALOGUE, runner, rollouts, 5, Path('none'), lambda key: None, lambda mass: None)
    walks = [ppo.Walk(number, search, plan) for number in range(runner.parallel)]
    model = ppo.SearchPPO(5, plan, walks)
    for walk in walks:
        walk.restart()
    return model, walks


class MixedRunner(CoinRunner):
    """Has episodes that end by a failure, after five perturbations, and as invalid."""

    def outcome(self, request, failed):
        """Return what the trial says."""
        if request.trial % 11 == 10:
            return Outcome('invalid', 'solved_at_reset')
        return Outcome('failure' if request.trial % 7 == 6 else 'success')


@pytest.mark.parametrize('parallel', [1, 2])
def test_what_is_learnt_from_is_what_stable_baselines_collects(parallel):
    model, walks = a_model(MixedRunner(parallel))
    steps = PHASE // parallel
    ours, theirs = model.rollout_buffer, None
    model.train = lambda: None

    stock_walks = a_model(MixedRunner(parallel))[1]
    stock = PPO('CnnPolicy', DummyVecEnv([ppo._maker(walk) for walk in stock_walks]),
                n_steps=steps, device='cpu', **ppo.PAPER | {'batch_size': PHASE})
    stock.policy.load_state_dict(model.policy.state_dict())
    _, callback = stock._setup_learn(1000)
    for phase in range(2):
        stop = threading.Event()
        taken = [model.advance(walk, phase, steps, stop) for walk in walks]
        model.learn_phase(phase, walks, taken)
        actions = iter(zip(*[[t.action for t in walk] for walk in taken], strict=True))

        def forward(observations, actions=actions):
            chosen = torch.tensor(next(actions))
            values, log_prob, _ = stock.policy.evaluate_actions(observations, chosen)
            return chosen, values, log_prob

        stock.policy.forward = forward
        stock.collect_rollouts(stock.env, callback, stock.rollout_buffer, steps)
        theirs = stock.rollout_buffer
        for name in ('observations', 'actions', 'episode_starts', 'rewards', 'values', 'log_probs',
                     'advantages', 'returns'):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.shape == b.shape and np.allclose(a, b, atol=1e-5), name
    infos = [t.info['verdict'] for walk in taken for t in walk]
    assert {'success', 'failure', 'invalid'} <= set(infos)


def test_preset_of_the_paper(monkeypatch):
    monkeypatch.setitem(ppo.PAPER, 'n_epochs', PAPERS_EPOCHS)
    model, _ = a_model(CoinRunner())
    assert model.learning_rate == 3e-4 and model.gamma == 0.99 and model.clip_range(1) == 0.2
    assert model.n_epochs == 10 and model.batch_size == 64
    for net in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
        layers = [layer.out_features for layer in net if isinstance(layer, torch.nn.Linear)]
        assert layers == [128, 256, 128]
    assert model.observation_space.shape == (3, 84, 84) and model.action_space.n == len(CATALOGUE)


def test_image_reaches_the_network():
    model, _ = a_model(CoinRunner())
    scenes = np.array([ppo._channels_first(a_picture(Condition(changed))) for changed in (
        (), (CATALOGUE['red_table'],), (CATALOGUE['blue_cube'],))])
    nominal, table, cube = model.log_preferences(scenes).exp()
    assert torch.allclose(nominal.sum(), torch.tensor(1.0))
    for one, other in ((nominal, table), (nominal, cube), (table, cube)):
        assert (one - other).abs().max() > 1e-5


def test_threads_do_not_get_each_others_answers():
    model, _ = a_model(CoinRunner())
    scenes = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 84, 84), np.uint8)
    alone = [(model.log_preferences(scene), model.values(scene)) for scene in scenes]

    def ask(number):
        return all(
            torch.equal(model.log_preferences(scenes[number]), alone[number][0])
            and torch.equal(model.values(scenes[number]), alone[number][1]) for _ in range(100))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


def test_search_turns_to_what_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(ppo.PAPER, 'n_epochs', PAPERS_EPOCHS)
    found = a_search(tmp_path, CoinRunner(), 120)
    mass = {row.name: row.search_mass for row in found.perturbations}
    assert mass['green_table'] + mass['red_table'] > 2 / 3  # 1/3 at the start


def test_seed_names_the_search(tmp_path, whole):
    a_search(tmp_path / 'same', CoinRunner(2))
    assert same_weights(whole[2], tmp_path / 'same')
    asked = settings(tmp_path / 'other', searcher='ppo', rollouts=ROLLOUTS, seed=1)
    a_diagnosis(asked, CoinRunner(2))
    assert not same_weights(whole[2], tmp_path / 'other')


def test_search_mass_is_the_preference_in_the_nominal_scene(whole):
    found = read_map(whole[1])
    model = PPO.load(whole[1] / 'checkpoints' / 'ppo.zip')
    masses = []
    for trial in range(3):
        observation, _ = model.policy.obs_to_tensor(a_picture(Condition(), trial))
        masses.append(model.policy.get_distribution(observation).distribution.probs)
    mass = torch.cat(masses).mean(0).detach().numpy()
    rows = {row.name: row.search_mass for row in found.perturbations}
    assert [rows[name] for name in CATALOGUE.names] == pytest.approx(mass, abs=1e-6)


# Interrupted and taken up again.

class TiredRunner(CoinRunner):
    """Gives up when it has run so many rollouts."""

    def __init__(self, parallel: int, rollouts: int) -> None:
        super().__init__(parallel, self._tire)
        self._rollouts = rollouts

    def _tire(self, request) -> None:
        if len(self.ran) >= self._rollouts:
            raise RunnerError('the lights went out.')


def interrupted(out: Path, parallel: int, every: int) -> int:
    """Run the search, with the runner giving up each time it has run so many; return how often."""
    for times in range(100):
        runner = TiredRunner(parallel, every)
        try:
            a_search(out, runner)
        except RunnerError as error:
            assert 'lights' in str(error)
        else:
            return times
    raise AssertionError('no end')


@pytest.mark.parametrize('parallel', [1, 2])
@pytest.mark.parametrize('every', [5, 11, 23])
def test_interrupted_search_learns_the_same(tmp_path, whole, every, parallel):
    assert interrupted(tmp_path, parallel, every) >= ROLLOUTS // every - parallel
    assert rollouts(tmp_path) == rollouts(whole[parallel])
    assert same_weights(tmp_path, whole[parallel])
    found, again = read_map(whole[parallel]), read_map(tmp_path)
    assert (again.nominal, again.perturbations) == (found.nominal, found.perturbations)


def test_checkpoint_saves_learning_again(tmp_path, monkeypatch):
    learnt = []
    learn_phase = ppo.SearchPPO.learn_phase

    def noted(self, phase, *others):
        learnt.append(phase)
        learn_phase(self, phase, *others)

    monkeypatch.setattr(ppo.SearchPPO, 'learn_phase', noted)
    assert interrupted(tmp_path, 2, 9) >= 2
    assert learnt == [0, 1, 2]


def remove(checkpoint: Path) -> None:
    """Have it lost."""
    checkpoint.unlink()


def tear(checkpoint: Path) -> None:
    """Have only a part of it written."""
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])


def flip(checkpoint: Path) -> None:
    """Have a byte of it wrong."""
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)


def empty(checkpoint: Path) -> None:
    """Have nothing of it written."""
    checkpoint.write_bytes(b'')


@pytest.mark.parametrize('damage', [remove, tear, flip, empty])
def test_ledger_makes_up_for_the_checkpoint(tmp_path, whole, damage):
    runner = CoinRunner(2)
    with pytest.raises(run.DiagnosisCanceled):
        a_search(tmp_path, runner, should_stop=lambda: len(runner.ran) >= 20)
    damage(tmp_path / 'checkpoints' / 'ppo.zip')
    rest = CoinRunner(2)
    a_search(tmp_path, rest)
    assert len(runner.ran) + len(rest.ran) == ROLLOUTS
    assert rollouts(tmp_path) == rollouts(whole[2]) and same_weights(tmp_path, whole[2])


def test_checkpoint_of_another_search_is_not_taken(tmp_path, whole):
    asked = settings(tmp_path, searcher='ppo', rollouts=ROLLOUTS, seed=1)
    a_diagnosis(asked, CoinRunner(2))
    for file in tmp_path.glob('ledger*'):
        file.unlink()
    a_search(tmp_path, CoinRunner(2))
    assert same_weights(tmp_path, whole[2]) and rollouts(tmp_path) == rollouts(whole[2])


def test_checkpoint_that_has_learnt_otherwise_is_not_taken(tmp_path, whole):
    """One of the right seed, with as many rollouts behind it, all of which are in the ledger."""

    class Unlucky(CoinRunner):

        def outcome(self, request, failed):
            return Outcome('failure')

    a_search(tmp_path, Unlucky(2))
    shutil.copy(tmp_path / 'checkpoints' / 'ppo.zip', tmp_path / 'stale.zip')
    shutil.copytree(whole[2], tmp_path / 'run')
    shutil.copy(tmp_path / 'stale.zip', tmp_path / 'run' / 'checkpoints' / 'ppo.zip')
    (tmp_path / 'run' / 'failure_map.json').unlink()
    assert a_search(tmp_path / 'run', CoinRunner(2)).perturbations == read_map(
        whole[2]).perturbations


def test_larger_budget_learns_as_if_it_had_been_asked_for_at_once(tmp_path, whole):
    a_search(tmp_path, CoinRunner(2), 20)
    runner = CoinRunner(2)
    a_search(tmp_path, runner)
    assert len(runner.ran) == ROLLOUTS - 20
    assert rollouts(tmp_path) == rollouts(whole[2]) and same_weights(tmp_path, whole[2])


def test_complete_search_tells_its_mass_without_a_rollout(tmp_path, whole):
    shutil.copytree(whole[1], tmp_path, dirs_exist_ok=True)
    (tmp_path / 'failure_map.json').unlink()
    runner = CoinRunner()
    assert a_search(tmp_path, runner).perturbations == read_map(whole[1]).perturbations
    assert not runner.ran


def test_two_at_a_time_need_not_wait_for_each_other(tmp_path):
    """A rollout that takes long holds up its own environment alone, until the phase ends."""
    others = threading.Event()

    def before(request):
        if request.key == 'ppo/0/1/5':
            others.set()
        if request.key == 'ppo/0/0/0':
            assert others.wait(20)

    a_search(tmp_path, CoinRunner(2, before))
    assert others.is_set()


def test_rollouts_run_in_the_calling_thread_if_there_is_but_one_at_a_time(tmp_path):
    threads = set()
    a_search(tmp_path, CoinRunner(1, lambda request: threads.add(threading.current_thread())))
    assert threads == {threading.current_thread()}


def search_until_killed(out: Path, log: Path) -> None:
    """Run the search."""
    torch.set_num_threads(1)
    hurry()
    a_search(out, CoinRunner(2, log=log, seconds=0.02))


def test_killed_search_learns_the_same(tmp_path, whole):
    log = tmp_path / 'log'
    kills = len(list(killed_at_random(search_until_killed, tmp_path, log, 4, 0.2)))
    search_until_killed(tmp_path, log)
    ran = log.read_text().split()
    assert len(set(ran)) == ROLLOUTS and len(ran) <= ROLLOUTS + 2 * kills  # two ran at each kill
    assert rollouts(tmp_path) == rollouts(whole[2]) and same_weights(tmp_path, whole[2])
