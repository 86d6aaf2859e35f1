# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""load_policy on real TorchScript files and Python factories, and what the task offers."""

import hashlib
from pathlib import Path
import re
import runpy
import sys
import textwrap

import numpy as np
from policy_checks import observation, refused, rollout
import pytest
from robomd_ros.errors import UserError
from robomd_ros.policies import load_policy, PolicyNeeds
from robomd_ros.policies.visuomotor import BUILTIN
from robomd_ros.worlds.offers import check_needs, OFFERS
import torch
from torch import nn, Tensor

pytestmark = pytest.mark.filterwarnings('ignore:.torch.jit:FutureWarning')


# What a task offers


def test_offers_are_robosuites():
    from robomd_ros.worlds.renderer import choose_renderer
    choose_renderer()
    import robosuite

    environment = robosuite.make('Lift', robots='Panda', has_renderer=False,
                                 has_offscreen_renderer=False, use_camera_obs=False)
    shown = environment.reset()
    shown['object'] = shown['object-state']
    offer = OFFERS['lift']
    assert {name: shown[name].shape for name in offer.state} == {
        name: (numbers,) for name, numbers in offer.state.items()}
    parts = [shown[name] for name in ('cube_pos', 'cube_quat', 'gripper_to_cube_pos')]
    assert np.array_equal(shown['object'], np.concatenate(parts))
    # The direction that checkpoints of older robosuites are turned to.
    direction = shown['cube_pos'] - shown['robot0_eef_pos']
    assert np.allclose(shown['gripper_to_cube_pos'], direction)
    assert set(offer.cameras) == set(environment.sim.model.camera_names)
    assert offer.action_size == environment.action_dim
    environment.close()


@pytest.mark.parametrize(('needs', 'part'), [
    (PolicyNeeds({'sky': (84, 84)}), "the camera 'sky'"),
    (PolicyNeeds({'agentview': (0, 84)}), '(0, 84)'),
    (PolicyNeeds({'agentview': (84, 1025)}), '(84, 1025)'),
    (PolicyNeeds({'agentview': (84.0, 84)}), '(84.0, 84)'),
    (PolicyNeeds({'agentview': 84}), 'the size 84'),
    (PolicyNeeds({}, ('robot1_eef_pos',)), "the observation 'robot1_eef_pos'"),
    (PolicyNeeds({}, (), 8), 'actions of 8 numbers'),
    (PolicyNeeds(fidelity='best'), "the fidelity 'best'"),
])
def test_needs_that_a_task_cannot_meet(needs, part):
    with pytest.raises(UserError) as caught:
        check_needs(needs, 'lift', 'python:mine:make')
    assert str(caught.value).startswith('python:mine:make: ')
    assert part in str(caught.value)


@pytest.mark.parametrize('spec', ['', 'lift', 'onnx:lift.onnx', 'robomimic', 'torchscript:'])
def test_unknown_kind_lists_the_four(spec):
    refused(spec, repr(spec), 'robomimic:PATH', 'torchscript:PATH', 'python:MODULE:FACTORY',
            'builtin:NAME')


def test_the_examples_of_the_documentation(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / 'docs' / 'policies.md').read_text()
    for name, example in re.findall(r'```(?:python|yaml)\n# (\S+)\n(.*?)```', text, re.DOTALL):
        (tmp_path / name).write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    runpy.run_path('export_policy.py', run_name='__main__')
    network = load_policy('torchscript:lift.pt', 'lift')
    assert network.needs.images == {'agentview': (84, 84)}
    runpy.run_path('use.py')
    for name in (*OFFERS['lift'].cameras, *OFFERS['lift'].state):
        assert f'`{name}`' in text


def test_home_folder_of_a_visuomotor_policy(tmp_path, monkeypatch):
    for suffix in ('.safetensors', '.json'):
        (tmp_path / f'x{suffix}').symlink_to((BUILTIN / 'lift').with_suffix(suffix))
    monkeypatch.setenv('HOME', str(tmp_path))
    found = load_policy('visuomotor:~/x.safetensors', 'lift')
    assert found.digest == load_policy('builtin:lift', 'lift').digest


def test_unknown_task():
    refused('builtin:lift', "'fold'", task='fold')


@pytest.mark.parametrize('kind', ['robomimic', 'torchscript'])
def test_files_that_are_none(kind, tmp_path):
    if kind == 'robomimic':
        pytest.importorskip('robomimic')
    for name, data in {'text.pt': b'hello', 'empty.pt': b'', 'zip.pt': b'PK\3\4' * 99}.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).with_suffix('.yaml').write_text(SIDECAR)
        refused(f'{kind}:{tmp_path / name}', name)
    refused(f'{kind}:{tmp_path}', 'is a directory')
    refused(f'{kind}:{tmp_path}/nothing.pt', 'There is no file')
    refused(f'{kind}:{tmp_path}/text.pt/policy.pt', 'cannot be read')


# TorchScript


SIDECAR = """\
observations:
  images:
    agentview: [4, 6]
  state: [robot0_eef_pos]
action:
  size: 7
"""


class Echo(nn.Module):
    """Answers what it was shown: a pixel's three channels, the state and the picture's mean."""

    def forward(self, shown: dict[str, Tensor]) -> Tensor:
        """Take the observation and return the action."""
        image = shown['agentview_image']
        mean = image.mean().reshape(1, 1)
        return torch.cat([image[:, :, 1, 2], shown['robot0_eef_pos'], mean], 1)


class Counter(nn.Module):
    """Answers how often it was asked since its last reset, in tenths."""

    count: int

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, shown: dict[str, Tensor]) -> Tensor:
        """Take the observation and return the action."""
        self.count += 1
        return torch.full((7,), 0.1 * self.count)

    @torch.jit.export
    def reset(self):
        """Forget the last rollout."""
        self.count = 0


class Memory(nn.Module):
    """Answers a tenth more at every step; its memory is a tensor, emptied in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer('h', torch.zeros(7))

    def forward(self, shown: dict[str, Tensor]) -> Tensor:
        """Take the observation and return the action."""
        self.h = self.h + 0.1
        return self.h

    @torch.jit.export
    def reset(self):
        """Forget the last rollout."""
        self.h.zero_()


class Sampler(nn.Module):
    """Answers random numbers."""

    def forward(self, shown: dict[str, Tensor]) -> Tensor:
        """Take the observation and return the action."""
        return torch.rand(1, 7)


class Bad(nn.Module):
    """Answers the same vector whatever it is shown."""

    def __init__(self, answer):
        super().__init__()
        self.register_buffer('answer', answer)

    def forward(self, shown: dict[str, Tensor]) -> Tensor:
        """Take the observation and return the action."""
        return self.answer


class Undecided(nn.Module):
    """Takes a tensor, not observations."""

    def forward(self, shown: Tensor) -> Tensor:
        """Take the observation and return the action."""
        return shown


def scripted(module, path, sidecar=SIDECAR):
    torch.jit.script(module).save(path)
    path.with_suffix('.yaml').write_text(sidecar)
    return f'torchscript:{path}'


def test_torchscript_sees_what_the_sidecar_says(tmp_path):
    sidecar = SIDECAR + textwrap.dedent("""\
          low: -2
          high: [2, 2, 2, 4, 4, 4, 2]
        image_normalization: {mean: [0.1, 0.2, 0.3], std: [0.5, 1, 2]}
        fidelity: fast
        """)
    policy = load_policy(scripted(Echo(), tmp_path / 'echo.pt', sidecar), 'lift')
    assert policy.needs == PolicyNeeds({'agentview': (4, 6)}, ('robot0_eef_pos',), 7, 'fast')
    shown = observation(size=(4, 6))
    image = (shown['agentview_image'] / 255 - [0.1, 0.2, 0.3]) / [0.5, 1, 2]
    answer = np.concatenate([image[1, 2], shown['robot0_eef_pos'], [image.mean()]])
    low, high = np.full(7, -2), np.array([2, 2, 2, 4, 4, 4, 2])
    expected = np.clip(2 * (answer - low) / (high - low) - 1, -1, 1)
    assert len(set(expected.round(6))) == 7
    policy.reset('lift the red cube')
    assert np.allclose(policy.act(shown), expected, atol=1e-6)
    bytes_of_both = (tmp_path / 'echo.pt').read_bytes() + sidecar.encode()
    assert policy.digest == hashlib.sha256(bytes_of_both).hexdigest()


def test_torchscript_traced_answers_as_scripted(tmp_path):
    shown = {'agentview_image': torch.zeros(1, 3, 4, 6), 'robot0_eef_pos': torch.zeros(1, 3)}
    torch.jit.trace(Echo(), (shown,)).save(tmp_path / 'traced.pt')
    (tmp_path / 'traced.yaml').write_text(SIDECAR)
    traced = load_policy(f'torchscript:{tmp_path}/traced.pt', 'lift')
    spec = scripted(Echo(), tmp_path / 'scripted.pt')
    shown = observation(size=(4, 6))
    assert np.array_equal(traced.act(shown), load_policy(spec, 'lift').act(shown))


@pytest.mark.parametrize('module', [Counter, Memory])
def test_torchscript_reset_reaches_the_module(module, tmp_path):
    policy = load_policy(scripted(module(), tmp_path / 'counter.pt'), 'lift')
    shown = observation(size=(4, 6))
    for _ in range(2):
        policy.reset('lift the red cube')
        assert np.allclose([policy.act(shown)[0] for _ in range(3)], [0.1, 0.2, 0.3])


def test_random_policies_repeat_a_rollout_and_leave_the_process_alone(tmp_path):
    policy = load_policy(scripted(Sampler(), tmp_path / 'sampler.pt'), 'lift')
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = rollout(policy, 1)
    assert torch.equal(torch.rand(4), expected)
    assert len({tuple(action) for action in first}) == 6
    assert not np.array_equal(rollout(policy, 2), first)
    assert np.array_equal(rollout(policy, 1), first)


@pytest.mark.parametrize(('module', 'parts'), [
    (Bad(torch.zeros(1, 6)), ('answers an array of shape (6,), not (7,)',)),
    (Bad(torch.zeros(2, 7)), ('answers an array of shape (2, 7), not (7,)',)),
    (Bad(torch.full((7,), torch.nan)), ('nan', 'not finite')),
    (Undecided(), ('forward takes (Tensor)', 'Dict[str, Tensor]')),
])
def test_torchscript_with_bad_answers(module, parts, tmp_path):
    refused(scripted(module, tmp_path / 'bad.pt'), 'bad.pt', *parts)


def test_torchscript_missing_observation(tmp_path):
    sidecar = SIDECAR.replace('robot0_eef_pos', 'cube_pos')
    refused(scripted(Echo(), tmp_path / 'echo.pt', sidecar), 'cube_pos (3,)', 'robot0_eef_pos')


def test_torch_files_that_are_not_torchscript(tmp_path):
    torch.save(nn.Linear(3, 7).state_dict(), tmp_path / 'weights.pt')
    (tmp_path / 'weights.yaml').write_text(SIDECAR)
    refused(f'torchscript:{tmp_path}/weights.pt', 'weights.pt is not a TorchScript file')
    spec = scripted(Echo(), tmp_path / 'short.pt')
    whole = (tmp_path / 'short.pt').read_bytes()
    (tmp_path / 'short.pt').write_bytes(whole[:len(whole) // 2])
    refused(spec, 'short.pt is not a TorchScript file')
    (tmp_path / 'short.yaml').unlink()
    refused(spec, 'There is no file', 'short.yaml', 'sidecar')


@pytest.mark.parametrize(('old', 'new', 'line', 'part'), [
    ('[4, 6]', '[4, 6', 4, 'not YAML'),
    ('[4, 6]', '[0, 6]', 3, '(0, 6)'),
    ('[4, 6]', '{h: 4}', 3, "{'h': 4}"),
    ('agentview', 'sky', 3, "'sky'"),
    ('agentview: [4, 6]', '84', 3, 'must map cameras'),
    ('[robot0_eef_pos]', '[robot0_eef_pos, colour]', 4, "'colour'"),
    ('[robot0_eef_pos]', '[cube_pos, cube_pos]', 4, 'at most once'),
    ('[robot0_eef_pos]', 'robot0_eef_pos', 4, 'must be a list'),
    ('  state: ', '  states: ', 4, "unknown key 'states'"),
    ('size: 7', 'size: 6', 6, 'actions of 6 numbers'),
    ('size: 7', 'size: seven', 6, "'seven'"),
    ('size: 7', 'size: 7\n  low: [0, 0]', 7, 'list of 7 numbers'),
    ('size: 7', 'size: 7\n  low: .nan', 7, 'list of 7 numbers'),
    ('size: 7', 'size: 7\n  low: 2', 6, "'low' must be less"),
    ('size: 7', 'low: 0', 6, "'size' is missing"),
    ('size: 7\n', 'size: 7\nfidelity: best\n', 7, "'best'"),
    ('size: 7\n', 'size: 7\nsize: 7\n', 7, "unknown key 'size'"),
    ('size: 7\n', 'size: 7\naction: {size: 7}\n', 7, 'already'),
    ('size: 7\n', 'size: 7\nimage_normalization: {mean: 0}\n', 7, "'std' is missing"),
    ('size: 7\n', 'size: 7\nimage_normalization: {mean: 0, std: 0}\n', 7, 'greater than 0'),
    (SIDECAR, '', 1, 'empty'),
    (SIDECAR, '- a list\n', 1, 'must be a mapping'),
    (SIDECAR, 'observations: {}\naction: {size: 7}\n', 1, 'nothing to show'),
    (SIDECAR, 'observations: {state: [cube_pos]}\n', 1, "'action' is missing"),
])
def test_sidecar_faults_name_the_line(old, new, line, part, tmp_path):
    assert old in SIDECAR
    spec = scripted(Echo(), tmp_path / 'echo.pt', SIDECAR.replace(old, new))
    sentence = refused(spec, part)
    assert sentence.startswith(f'{tmp_path}/echo.yaml, line {line}: ')


# Python


FACTORY = """\
from dataclasses import dataclass

import numpy as np
from robomd_ros.policies import PolicyNeeds


@dataclass
class Reach:
    needs = PolicyNeeds(images={'agentview': (84, 84)}, state=('robot0_eef_pos', 'cube_pos'))
    task: str

    def reset(self, instruction):
        self.instruction = instruction

    def act(self, observation):
        offset = observation['cube_pos'] - observation['robot0_eef_pos']
        return [*(5 * offset), 0, 0, 0, -1]


def make(task):
    return Reach(task)
"""


def written(path, old='', new=''):
    assert old in FACTORY
    path.write_text(FACTORY.replace(old, new, 1))
    return f'python:{path}:make'


def check_reach(policy):
    shown = observation()
    policy.reset('lift the red cube')
    action = policy.act(shown)
    expected = np.clip(5 * (shown['cube_pos'] - shown['robot0_eef_pos']), -1, 1)
    assert np.array_equal(action, [*expected, 0, 0, 0, -1])
    assert policy.needs.images == {'agentview': (84, 84)}
    assert policy.digest == hashlib.sha256(FACTORY.encode()).hexdigest()


def test_python_file(tmp_path):
    check_reach(load_policy(written(tmp_path / 'reach.py'), 'lift'))


def test_python_file_finds_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', sys.path[:])
    written(tmp_path / 'neighbour_of_mine.py')
    (tmp_path / 'mine.py').write_text('from neighbour_of_mine import make\n')
    assert load_policy(f'python:{tmp_path}/mine.py:make', 'lift').needs.action_size == 7


def test_python_module_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', sys.path[:])
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_policies').mkdir()
    written(tmp_path / 'my_policies' / 'reach.py')
    check_reach(load_policy('python:my_policies.reach:make', 'lift'))


@pytest.mark.parametrize(('old', 'new', 'parts'), [
    ('def make(task)', 'def create(task)', ('defines no function make',)),
    ('def make(task)', 'def make()', ('make(', 'failed: TypeError')),
    ('return Reach(task)', 'return 1 / 0', ('ZeroDivisionError', 'bad.py, line 21')),
    ('return Reach(task)', 'return None', ('a NoneType without the method reset',)),
    ('def act(', 'def answer(', ('a Reach without the method act',)),
    ("PolicyNeeds(images={'agentview': (84, 84)}, state=('robot0_eef_pos', 'cube_pos'))",
     "{'state': ['cube_pos']}", ('whose needs are a dict',)),
    ("'cube_pos'))", '))', ('fails on a blank observation', "KeyError: 'cube_pos'", 'line 16')),
    ('cube_pos', 'cup_pos', ("the observation 'cup_pos'",)),
    ("'agentview'", "'sky'", ("the camera 'sky'",)),
    (', 0, 0, 0, -1]', ']', ('answers an array of shape (3,), not (7,)',)),
    ('-1]', 'float("nan")]', ('answers [0.0', 'not finite')),
    ("('robot0_eef_pos', 'cube_pos')", "('cube_pos')", ('state as a tuple', "'cube_pos'")),
    ("{'agentview': (84, 84)}", "['agentview']", ('images as a mapping', "['agentview']")),
    ('def make', 'def def make', ('cannot be imported: SyntaxError', 'bad.py, line 20')),
    ('import numpy', 'import numpyy', ("No module named 'numpyy'", 'bad.py, line 3')),
])
def test_python_faults_are_one_sentence(old, new, parts, tmp_path):
    refused(written(tmp_path / 'bad.py', old, new), 'bad.py', *parts)


@pytest.mark.parametrize(('spec', 'part'), [
    ('python:reach.py', 'names no factory'),
    ('python:reach.py:', 'names no factory'),
    ('python:no_such_package.reach:make', "no Python module 'no_such_package'"),
    ('python:json.reach:make', "no Python module 'json.reach'"),
    ('python:nowhere/reach.py:make', 'There is no file'),
])
def test_python_modules_that_are_none(spec, part):
    refused(spec, part)
