# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the searchers ppo and a2c learn: that it is PPO and A2C, and that they see."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
import threading
from typing import Any

from coin_runner import a_picture, a_search, CATALOGUE, CoinRunner
import numpy as np
import pytest
from robomd_ros.conditions import Condition
from robomd_ros.diagnosis import a2c, on_policy, ppo
from robomd_ros.worlds.protocol import Outcome
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv
import torch

LEARNERS = {'ppo': ppo.SearchPPO, 'a2c': a2c.SearchA2C}
STOCK = {'ppo': PPO, 'a2c': A2C}
STEPS = {'ppo': 12, 'a2c': 5}  # of an environment, in a phase
FILLED = ('observations', 'actions', 'episode_starts', 'rewards', 'values', 'log_probs',
          'advantages', 'returns')

both = pytest.mark.parametrize('searcher', ['ppo', 'a2c'])


def some_walks(searcher: str, runner: CoinRunner, **others: Any) -> list[on_policy.Walk]:
    """Return a searcher's environments, with nothing run in them."""
    plan = on_policy.Plan(100, 10, runner.parallel, STEPS[searcher])
    search = a_search(runner, 100, 10, **others)
    return [on_policy.Walk(searcher, number, search, plan) for number in range(runner.parallel)]


def a_model(searcher: str, runner: CoinRunner) -> tuple[on_policy.Learner, list[on_policy.Walk]]:
    """Return a model that has learnt nothing yet, and its environments."""
    plan = on_policy.Plan(100, 10, runner.parallel, STEPS[searcher])
    walks = some_walks(searcher, runner)
    model = LEARNERS[searcher](5, plan, walks)
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


def the_stock(searcher: str, model: on_policy.Learner, parallel: int) -> PPO | A2C:
    """Return stable-baselines3's own algorithm, on environments of its own, with the weights."""
    walks = some_walks(searcher, MixedRunner(parallel))
    stock = STOCK[searcher](
        'CnnPolicy', DummyVecEnv([on_policy._maker(walk) for walk in walks]),
        n_steps=STEPS[searcher], device='cpu', **deepcopy(model.preset))
    stock.policy.load_state_dict(model.policy.state_dict())
    stock.set_logger(model.logger)  # else it logs to files
    return stock


def collect(stock: PPO | A2C, actions: list[list[int]]) -> None:
    """Have it collect rollouts as it does, with those actions, a list for each step."""
    chosen = iter(actions)

    def forward(observations):
        action = torch.tensor(next(chosen))
        values, log_prob, _ = stock.policy.evaluate_actions(observations, action)
        return action, values, log_prob

    stock.policy.forward = forward
    _, callback = stock._setup_learn(1000, reset_num_timesteps=False)  # goes on where it stands
    stock.collect_rollouts(stock.env, callback, stock.rollout_buffer, len(actions))


@both
@pytest.mark.parametrize('parallel', [1, 2])
@pytest.mark.filterwarnings('ignore:You have specified a mini-batch size')
def test_what_is_learnt_is_what_stable_baselines_learns(searcher, parallel, monkeypatch):
    monkeypatch.setitem(ppo.PAPER, 'batch_size', 5)  # several in a phase, in random order
    monkeypatch.setitem(ppo.PAPER, 'n_epochs', 2)
    model, walks = a_model(searcher, MixedRunner(parallel))
    stock = the_stock(searcher, model, parallel)
    infos = []
    train = model.train

    def train_both():
        for name in FILLED:
            ours, theirs = (getattr(one.rollout_buffer, name) for one in (model, stock))
            assert ours.shape == theirs.shape and np.allclose(ours, theirs, atol=1e-5), name
        stock.rollout_buffer = deepcopy(model.rollout_buffer)
        random = np.random.get_state()
        train()
        np.random.set_state(random)
        stock.train()

    model.train = train_both
    for phase in range(3):
        taken = [model.advance(walk, phase, STEPS[searcher], threading.Event()) for walk in walks]
        infos += [transition.info['verdict'] for walk in taken for transition in walk]
        collect(stock, [[t.action for t in step] for step in zip(*taken, strict=True)])
        if searcher == 'a2c':
            stock.ent_coef = 0.1 - 0.09 * phase * 5 * parallel / 300
        before = deepcopy(model.policy.state_dict())
        model.learn_phase(phase, walks, taken)
        after, other = model.policy.state_dict(), stock.policy.state_dict()
        assert all(torch.equal(after[name], other[name]) for name in after)
        assert not all(torch.equal(after[name], before[name]) for name in after)
    assert {'success', 'failure', 'invalid'} == set(infos)


def layers(model: on_policy.Learner) -> list[list[int]]:
    """Return the widths of the actor's and of the critic's hidden layers."""
    return [[layer.out_features for layer in net if isinstance(layer, torch.nn.Linear)]
            for net in (model.policy.mlp_extractor.policy_net,
                        model.policy.mlp_extractor.value_net)]


@both
def test_networks_of_the_paper_on_pictures(searcher):
    model, _ = a_model(searcher, CoinRunner())
    assert layers(model) == [[128, 256, 128]] * 2
    assert model.observation_space.shape == (3, 84, 84) and model.action_space.n == len(CATALOGUE)


def test_ppo_of_the_paper():
    model, _ = a_model('ppo', CoinRunner())
    assert model.learning_rate == 3e-4 and model.gamma == 0.99 and model.clip_range(1) == 0.2
    assert model.n_epochs == 10 and model.batch_size == 64 and ppo.PHASE == 64
    assert type(model.policy.optimizer) is torch.optim.Adam


def test_a2c_of_the_paper():
    model, _ = a_model('a2c', CoinRunner())
    assert model.learning_rate == 2.5e-4 and model.gamma == 0.99 and a2c.STEPS == 5
    assert type(model.policy.optimizer) is torch.optim.RMSprop
    a_model('ppo', CoinRunner())
    assert a2c.PAPER['policy_kwargs'] == ppo.PAPER['policy_kwargs']  # none has been changed


def test_entropy_counts_less_and_less():
    weights = [a2c.entropy_weight(rollouts) for rollouts in range(0, 1000, 5)]
    assert weights[0] == 0.1 and weights[30] == pytest.approx(0.055)
    assert weights[60:] == pytest.approx([0.01] * 140)
    assert np.all(np.diff(weights[:61]) < 0)


@both
def test_image_reaches_the_network(searcher):
    model, _ = a_model(searcher, CoinRunner())
    scenes = np.array([on_policy._channels_first(a_picture(Condition(changed))) for changed in (
        (), (CATALOGUE['red_table'],), (CATALOGUE['blue_cube'],))])
    nominal, table, cube = model.log_preferences(scenes).exp()
    assert torch.allclose(nominal.sum(), torch.tensor(1.0))
    for one, other in ((nominal, table), (nominal, cube), (table, cube)):
        assert (one - other).abs().max() > 1e-5


def test_threads_do_not_get_each_others_answers():
    model, _ = a_model('ppo', CoinRunner())
    scenes = np.random.default_rng(0).integers(0, 256, (4, 1, 3, 84, 84), np.uint8)
    alone = [(model.log_preferences(scene), model.values(scene)) for scene in scenes]

    def ask(number):
        return all(
            torch.equal(model.log_preferences(scenes[number]), alone[number][0])
            and torch.equal(model.values(scenes[number]), alone[number][1]) for _ in range(100))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


def test_reward_and_length_of_episodes_reach_the_environment():
    walk, = some_walks('a2c', CoinRunner(), reward='flat', max_perturbations=2)
    walk.restart()
    rewards, starts = set(), []
    for _ in range(40):
        starts.append(walk.start)
        step = walk.environment.take(0, 1.0)
        walk.follow(step)
        rewards.add(step[1])
    assert rewards == {1.0, -0.5}
    assert (True, False) in zip(starts, starts[1:], strict=False)
    assert (False, False) not in zip(starts, starts[1:], strict=False)


@pytest.mark.parametrize('searcher, rollouts', [('ppo', 120), ('a2c', 150)])
def test_search_turns_to_what_fails(tmp_path, searcher, rollouts, monkeypatch):
    monkeypatch.setattr(ppo, 'PHASE', 12)
    masses = []
    {'ppo': ppo, 'a2c': a2c}[searcher].search(a_search(
        CoinRunner(), rollouts, 12, checkpoints=tmp_path, on_mass=masses.append))
    mass = dict(zip(CATALOGUE.names, masses[-1], strict=True))
    assert mass['green_table'] + mass['red_table'] > 0.6  # 1/3 at the start
    assert mass['green_table'] > mass['red_table'] > mass['blue_table']
