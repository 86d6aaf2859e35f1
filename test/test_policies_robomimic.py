# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""load_policy on checkpoints that robomimic itself saved."""

import contextlib
import hashlib
import io
from pathlib import Path
import subprocess
import sys
import textwrap

import numpy as np
from policy_checks import observation, refused, rollout
import pytest
from robomd_ros.policies import load_policy, PolicyNeeds
import torch

pytest.importorskip('robomimic')
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:torchvision')

EYE = 'agentview_image'
SHAPES = {'robot0_eef_pos': [3], 'robot0_gripper_qpos': [2], 'object': [10], EYE: [3, 84, 84]}
LIFT = {'env_name': 'Lift', 'env_version': '1.5.2', 'type': 1, 'env_kwargs': {
    'robots': ['Panda'], 'control_freq': 20, 'controller_configs': {
        'type': 'BASIC', 'body_parts': {'right': {'type': 'OSC_POSE', 'input_type': 'delta'}}}}}
ALGORITHMS = {
    'plain': {},
    'recurrent': {'rnn': {'enabled': True, 'horizon': 4, 'hidden_dim': 16}},
    'mixture': {'gmm': {'enabled': True, 'low_noise_eval': False}},
    'transformer': {'transformer': {'enabled': True, 'context_length': 4, 'embed_dim': 16,
                                    'num_heads': 2, 'num_layers': 1}},
}


def save(path, keys, algorithm='plain', env=LIFT, actions=7, shapes=SHAPES, stats=None, goal=()):
    """Save an untrained policy as robomimic's training does; return robomimic's own object."""
    from robomimic.algo import algo_factory
    from robomimic.config import config_factory
    from robomimic.utils import obs_utils, train_utils

    config = config_factory('bc')
    with config.unlocked():
        modalities = config.observation.modalities
        modalities.obs.rgb = [key for key in keys if key == EYE]
        modalities.obs.low_dim = [key for key in keys if key != EYE]
        modalities.goal.low_dim = list(goal)
        config.observation.encoder.rgb.core_class = 'VisualCore'
        config.observation.encoder.rgb.core_kwargs = {
            'feature_dimension': 8, 'backbone_class': 'ResNet18Conv',
            'backbone_kwargs': {'pretrained': False, 'input_coord_conv': False},
            'pool_class': 'SpatialSoftmax', 'pool_kwargs': {'num_kp': 4}}
        config.algo.actor_layer_dims = (16,)
        for part, settings in ALGORITHMS[algorithm].items():
            config.algo[part].update(settings)
        config.train.frame_stack = 4 if algorithm == 'transformer' else 1
        config.train.hdf5_normalize_obs = stats is not None
    shapes = {key: shapes[key] for key in keys}
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng():
        obs_utils.initialize_obs_utils_with_config(config)
        torch.manual_seed(0)
        model = algo_factory('bc', config, shapes, actions, torch.device('cpu'))
        train_utils.save_model(
            model, config, env, {'ac_dim': actions, 'all_shapes': shapes,
                                 'all_obs_keys': list(keys), 'use_images': EYE in keys},
            path, obs_normalization_stats=stats)
    model.set_eval()
    return model


def as_robomimic(shown, keys):
    """Return the observation as robomimic's EnvRobosuite hands it to a policy."""
    image = np.float32(shown[EYE]).transpose(2, 0, 1) / np.float32(255)
    return {key: image if key == EYE else shown[key] for key in keys}


@pytest.mark.parametrize('keys', [('robot0_eef_pos', 'object'),
                                  ('robot0_eef_pos', 'robot0_gripper_qpos', EYE), (EYE,)])
@pytest.mark.parametrize('algorithm', ['plain', 'recurrent'])
def test_robomimic_acts_as_in_robomimic(keys, algorithm, tmp_path):
    from robomimic.algo import RolloutPolicy

    path = tmp_path / 'policy.pth'
    theirs = RolloutPolicy(save(path, keys, algorithm))
    policy = load_policy(f'robomimic:{path}', 'lift')
    assert policy.needs == PolicyNeeds(
        {'agentview': (84, 84)} if EYE in keys else {},
        tuple(key for key in keys if key != EYE), 7, 'full')
    assert policy.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    theirs.start_episode()
    shown = [observation(step) for step in range(6)]
    expected = np.array([theirs(as_robomimic(one, keys)) for one in shown])
    assert len({tuple(action) for action in expected}) == 6
    for _ in range(2):  # the second rollout must not remember the first
        policy.reset('lift the red cube')
        assert np.allclose([policy.act(one) for one in shown], expected, atol=1e-6)


def test_robomimic_transformer_sees_its_last_frames(tmp_path):
    from robomimic.algo import RolloutPolicy

    keys = ('robot0_eef_pos', 'robot0_gripper_qpos')
    theirs = RolloutPolicy(save(tmp_path / 'policy.pth', keys, 'transformer'))
    policy = load_policy(f'robomimic:{tmp_path}/policy.pth', 'lift')
    shown = [observation(step) for step in range(6)]
    theirs.start_episode()
    expected = []
    for step in range(6):
        frames = [shown[max(0, step - back)] for back in (3, 2, 1, 0)]
        expected.append(theirs({key: np.stack([frame[key] for frame in frames]) for key in keys}))
    for _ in range(2):
        policy.reset('lift the red cube')
        assert np.allclose([policy.act(one) for one in shown], expected, atol=1e-6)


def test_robomimic_normalises_as_trained(tmp_path):
    from robomimic.algo import RolloutPolicy

    keys = ('robot0_eef_pos', 'object')
    stats = {key: {'mean': np.full((1, *SHAPES[key]), 0.4), 'std': np.full((1, *SHAPES[key]), 3.)}
             for key in keys}
    theirs = RolloutPolicy(save(tmp_path / 'policy.pth', keys, stats=stats), stats)
    shown = observation()
    expected = theirs(as_robomimic(shown, keys))
    policy = load_policy(f'robomimic:{tmp_path}/policy.pth', 'lift')
    assert np.allclose(policy.act(shown), expected, atol=1e-6)
    assert not np.allclose(theirs.policy.get_action({
        key: torch.tensor(shown[key][None], dtype=torch.float32) for key in keys
    })[0].detach(), expected)


def test_robomimic_of_an_older_robosuite_sees_the_cube_where_it_did(tmp_path):
    keys = ('robot0_eef_pos', 'object')
    actions = {}
    for version in ('1.4.1', '1.5.0'):
        save(tmp_path / 'policy.pth', keys, env=LIFT | {'env_version': version})
        policy = load_policy(f'robomimic:{tmp_path}/policy.pth', 'lift')
        shown = observation()
        actions[version] = policy.act(shown)
        shown['object'][7:] *= -1
        actions[f'{version} turned'] = policy.act(shown)
    assert np.array_equal(actions['1.4.1'], actions['1.5.0 turned'])
    assert np.array_equal(actions['1.5.0'], actions['1.4.1 turned'])
    assert not np.allclose(actions['1.4.1'], actions['1.5.0'])


def test_robomimic_mixture_repeats_a_rollout(tmp_path):
    save(tmp_path / 'policy.pth', ('robot0_eef_pos',), 'mixture')
    policy = load_policy(f'robomimic:{tmp_path}/policy.pth', 'lift')
    first = rollout(policy, 1)
    assert not np.array_equal(rollout(policy, 2), first)
    assert np.array_equal(rollout(policy, 1), first)


def test_robomimic_policies_do_not_disturb_each_other(tmp_path):
    save(tmp_path / 'one.pth', ('robot0_eef_pos', EYE))
    one = load_policy(f'robomimic:{tmp_path}/one.pth', 'lift')
    before = rollout(one, 1)
    save(tmp_path / 'other.pth', ('object',))
    load_policy(f'robomimic:{tmp_path}/other.pth', 'lift')
    assert np.array_equal(rollout(one, 1), before)


def kwargs(**changed):
    return {'env': LIFT | {'env_kwargs': LIFT['env_kwargs'] | changed}}


@pytest.mark.parametrize(('changed', 'parts'), [
    ({'actions': 8}, ('actions of 8 numbers', 'takes 7')),
    ({'env': LIFT | {'env_name': 'PickPlaceCan'}}, ("environment 'PickPlaceCan'", "'Lift'")),
    ({'env': LIFT | {'type': 2}}, ('the simulator 2',)),
    (kwargs(robots=['Sawyer']), ("robot 'Sawyer'",)),
    (kwargs(control_freq=10), ('control frequency 10',)),
    (kwargs(controller_configs={'type': 'JOINT_VELOCITY'}), ("controller 'JOINT_VELOCITY'",)),
    (kwargs(controller_configs={'type': 'OSC_POSE', 'control_delta': False}), ('relative',)),
    ({'shapes': SHAPES | {'object': [14]}}, ("'object' of shape (14,)", '10 numbers')),
    ({'shapes': SHAPES | {'speed': [3]}, 'keys': ('speed',)}, ("the observation 'speed'",)),
    ({'goal': ('object',)}, ('conditioned on goals',)),
])
def test_robomimic_trained_for_something_else(changed, parts, tmp_path):
    settings = {'keys': ('robot0_eef_pos', 'object')} | changed
    save(tmp_path / 'policy.pth', **settings)
    refused(f'robomimic:{tmp_path}/policy.pth', 'policy.pth', *parts)


@pytest.mark.parametrize('controller', [
    None, {'type': 'OSC_POSE', 'control_delta': True}, [{'type': 'OSC_POSE'}],
    {'type': 'BASIC', 'body_parts': {'arms': {'right': {'type': 'OSC_POSE'}}}}])
def test_robomimic_controllers_of_all_robosuites(controller, tmp_path):
    save(tmp_path / 'policy.pth', ('object',), **kwargs(controller_configs=controller))
    assert load_policy(f'robomimic:{tmp_path}/policy.pth', 'lift').needs.state == ('object',)


def change_config(old, new):
    def change(checkpoint):
        assert old in checkpoint['config']
        checkpoint['config'] = checkpoint['config'].replace(old, new)
    return change


class Foreign:
    """Stands for whatever a stranger puts into a pickle."""


@pytest.mark.parametrize(('change', 'parts'), [
    (lambda checkpoint: checkpoint.pop('config'), ('it has no config',)),
    (lambda checkpoint: checkpoint['model'].popitem(), ('Missing key(s)',)),
    (lambda checkpoint: checkpoint.update(algo_name='diffusion_policy'), ('diffusion_policy',)),
    (lambda checkpoint: checkpoint.update(extra=Foreign()), ('Foreign', 'run code')),
    (change_config('"VisualCore"', '"VisualCore()"'), ("names the class 'VisualCore()'",)),
])
def test_robomimic_damaged(change, parts, tmp_path):
    path = tmp_path / 'policy.pth'
    save(path, ('robot0_eef_pos', EYE))
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)
    refused(f'robomimic:{path}', 'policy.pth', *parts)


def test_robomimic_does_not_download_what_the_checkpoint_replaces(tmp_path, monkeypatch):
    path = tmp_path / 'policy.pth'
    save(path, (EYE,))
    expected = load_policy(f'robomimic:{path}', 'lift').act(observation())
    checkpoint = torch.load(path, weights_only=True)
    change_config('"pretrained": false', '"pretrained": true')(checkpoint)
    torch.save(checkpoint, path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    assert np.array_equal(load_policy(f'robomimic:{path}', 'lift').act(observation()), expected)
    assert not (tmp_path / 'hub').exists()


def test_robomimic_truncated(tmp_path):
    path = tmp_path / 'policy.pth'
    save(path, ('robot0_eef_pos',))
    path.write_bytes(path.read_bytes()[:-2000])
    refused(f'robomimic:{path}', 'policy.pth is not a checkpoint of robomimic 0.3, or is damaged')


def test_robomimic_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'robomimic', None)
    monkeypatch.setitem(sys.modules, 'robomimic.utils', None)
    (tmp_path / 'policy.pth').write_bytes(b'any')
    refused(f'robomimic:{tmp_path}/policy.pth', 'pip install "robomd_ros[robomimic]"')


def test_robomimic_loads_silently_and_makes_no_environment(tmp_path):
    save(tmp_path / 'policy.pth', ('robot0_eef_pos', EYE))
    script = textwrap.dedent(f"""\
        import sys
        from robomd_ros.policies import load_policy
        assert 'torch' not in sys.modules
        load_policy('robomimic:{tmp_path}/policy.pth', 'lift')
        assert not {{'robosuite', 'mujoco'}} & set(sys.modules)
        """)
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
