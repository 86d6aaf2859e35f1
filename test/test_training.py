# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The scripted expert, the training of a visuomotor policy, and the policy that ships."""

import json

import numpy as np
import pytest
from robomd_ros.conditions import NOMINAL
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy
from robomd_ros.policies.training import Recipe, train
from robomd_ros.policies.visuomotor import BUILTIN
from robomd_ros.rollouts import LocalRunner, RolloutRequest
from robomd_ros.worlds.mujoco_world import MujocoWorld
import torch

TINY = Recipe(demonstrations=3, rounds=1, rollouts=1, epochs=(2, 1), batch=16)


@pytest.fixture(scope='module')
def trained():
    return train('lift', TINY, seed=5)


def test_training_learns_and_tells_how(trained):
    policy, about = trained
    by_expert, by_policy = about['data']
    assert by_expert['rollouts'] == by_expert['successes'] == 3
    assert by_policy['rollouts'] == 1 and about['frames'] == by_policy['frames'] > 100
    assert about['recipe']['noise'] == TINY.noise


def test_the_same_seed_gives_the_same_policy(trained):
    again, _ = train('lift', TINY, seed=5)
    for name, weights in trained[0].net.state_dict().items():
        assert torch.equal(weights, again.net.state_dict()[name]), name


def test_a_trained_policy_is_saved_loaded_and_the_same(trained, tmp_path):
    policy, about = trained
    path = tmp_path / 'mine.safetensors'
    policy.save(path, about)
    loaded = load_policy(f'visuomotor:{path}', 'lift')
    rng = np.random.default_rng(0)
    observation = {'agentview_image': rng.integers(0, 255, (84, 84, 3), np.uint8)}
    observation |= {name: rng.normal(size=size) for name, size in zip(
        policy.needs.state, (3, 4, 2, 2), strict=True)}
    assert np.array_equal(loaded.act(observation), policy.act(observation))
    assert len(loaded.digest) == 64 and loaded.needs == policy.needs
    path.with_suffix('.json').write_text('{"config": {}}')
    with pytest.raises(UserError, match='mine.safetensors'):
        load_policy(f'visuomotor:{path}', 'lift')
    with pytest.raises(UserError, match='robomd policy train'):
        load_policy(f'visuomotor:{tmp_path / "none.safetensors"}', 'lift')


def test_the_policy_looks_at_the_picture():
    policy = load_policy('builtin:lift', 'lift')
    world = MujocoWorld('lift', policy.needs)
    observation = world.reset(NOMINAL, 0, 0)
    blind = {**observation, 'agentview_image': np.zeros_like(observation['agentview_image'])}
    assert np.abs(policy.act(observation) - policy.act(blind)).max() > 0.05
    assert not {'cube_pos', 'cube_quat', 'object'} & set(policy.needs.state)
    world.close()


def test_the_policy_that_ships_is_what_is_said_of_it():
    files = [path for path in BUILTIN.iterdir() if path.stem == 'lift']
    assert sum(path.stat().st_size for path in files) < 5e6
    evaluation = json.loads((BUILTIN / 'lift.json').read_text())['about']['evaluation']
    assert evaluation['n'] >= 200 and evaluation['successes'] >= 0.9 * evaluation['n']
    assert evaluation['interval'][0] > 0.85 and evaluation['condition'] == []
    policy = load_policy('builtin:lift', 'lift')
    world = MujocoWorld('lift', policy.needs)
    requests = [RolloutRequest(str(trial), NOMINAL, 77, trial) for trial in range(12)]
    verdicts = [result.outcome.verdict for result in LocalRunner(world, policy).run(requests)]
    assert verdicts.count('success') >= 10
    world.close()


def test_a_task_without_an_expert_is_refused():
    with pytest.raises(UserError, match='task'):
        train('juggle', TINY)
