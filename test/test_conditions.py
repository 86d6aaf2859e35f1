# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Perturbations, conditions and catalogues: slots add up, and bad files are refused."""

from collections import Counter
import hashlib
from itertools import permutations
from pathlib import Path
import random
import re

import pytest
from robomd_ros.conditions import Catalogue, Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.conditions.slots import find_property, PROPERTIES
from robomd_ros.conditions.tasks import get_task, TASKS
from robomd_ros.errors import UserError

ROOT = Path(__file__).parents[1]
LIFT = ROOT / 'config' / 'catalogues' / 'lift.yaml'
DOCS = ROOT / 'docs' / 'catalogues.md'

RED_CUBE = Perturbation('red_cube', 'cube.color', (1.0, 0.0, 0.0), 'Change cube color to red')
BLUE_CUBE = Perturbation('blue_cube', 'cube.color', (0.0, 0.0, 1.0), 'Change cube color to blue')
WIDE_TABLE = Perturbation('wide_table', 'table.size', (0.2, 0.8, 0.025), 'Resize table')
DIM = Perturbation('dim', 'light.brightness', 0.3, 'Dim the light')

GOOD = """\
task: lift
perturbations:
  - name: red_table
    slot: table.color
    value: [1, 0, 0]
    sentence: Change table color to red
"""


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a catalogue file and loads it."""
    def write_and_load(content: str | bytes) -> Catalogue:
        path = tmp_path / 'bad.yaml'
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_catalogue(path)
    return write_and_load


def entry(name='one', slot='cube.mass', value='0.5', sentence='Change something') -> str:
    """Return one more entry for GOOD, on its lines 7 to 10."""
    return (f'  - name: {name}\n    slot: {slot}\n    value: {value}\n    sentence: {sentence}\n')


def refusal(call, *arguments) -> str:
    """Return what a UserError says, having checked that it is one sentence."""
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert '\n' not in message
    assert message.endswith('.') and not message.endswith('..')
    assert not re.search(r'[.!?] [A-Z]', message)
    return message


# Conditions

def test_the_same_slot_overwrites():
    assert Condition((RED_CUBE,)).with_perturbation(BLUE_CUBE) == Condition((BLUE_CUBE,))


def test_other_slots_add_up():
    condition = NOMINAL.with_perturbation(RED_CUBE).with_perturbation(WIDE_TABLE)
    assert condition.names == ('red_cube', 'wide_table')
    assert condition.label == 'red_cube+wide_table'
    assert len(condition) == 2 and len(NOMINAL) == 0 and NOMINAL.label == 'nominal'


def test_the_order_of_perturbing_does_not_matter():
    conditions = set()
    for order in permutations((WIDE_TABLE, DIM, RED_CUBE)):
        condition = NOMINAL
        for perturbation in order:
            condition = condition.with_perturbation(perturbation)
        conditions.add(condition)
    assert len(conditions) == 1
    assert conditions.pop().names == ('red_cube', 'dim', 'wide_table')


def test_of_each_slot_the_last_perturbation_holds():
    rng = random.Random(0)
    perturbations = load_catalogue(LIFT).perturbations
    for _ in range(200):
        condition, last = NOMINAL, {}
        for perturbation in rng.choices(perturbations, k=rng.randrange(12)):
            condition = condition.with_perturbation(perturbation)
            last[perturbation.slot] = perturbation
        assert condition.perturbations == tuple(last[slot] for slot in sorted(last))


def test_two_of_one_slot_are_no_condition():
    with pytest.raises(ValueError, match='red_cube.*blue_cube'):
        Condition((RED_CUBE, BLUE_CUBE))


def test_a_slot_is_split_at_its_last_dot():
    perturbation = Perturbation('x', 'geom:mount.v2_g0.color', (0.0, 0.0, 0.0), 'x')
    assert (perturbation.part, perturbation.property) == ('geom:mount.v2_g0', 'color')


# The catalogues that come with the package

def test_lift_has_the_papers_21():
    catalogue = load_catalogue(LIFT)
    assert Counter(p.slot for p in catalogue) == {
        'cube.color': 4, 'table.color': 4, 'table.size': 2, 'cube.size': 3, 'robot.color': 4,
        'light.color': 4}
    assert [p.sentence for p in catalogue] == [
        'Change cube color to red',
        'Change cube color to green',
        'Change cube color to blue',
        'Change cube color to gray',
        'Change table color to green',
        'Change table color to blue',
        'Change table color to red',
        'Change table color to gray',
        'Resize table to (0.8, 0.2, 0.025)',
        'Resize table to (0.2, 0.8, 0.025)',
        'Resize cube to (0.04, 0.04, 0.04)',
        'Resize cube to (0.01, 0.01, 0.01)',
        'Resize cube to (0.04, 0.01, 0.01)',
        'Change robot color to red',
        'Change robot color to green',
        'Change robot color to cyan',
        'Change robot color to gray',
        'Change lighting color to red',
        'Change lighting color to green',
        'Change lighting color to blue',
        'Change lighting color to gray']


def test_lift_does_what_its_sentences_say():
    """The part, the property and the value of each, read out of its sentence."""
    colours = {'red': (1, 0, 0), 'green': (0, 1, 0), 'blue': (0, 0, 1), 'cyan': (0, 1, 1),
               'gray': (0.5, 0.5, 0.5)}
    for p in load_catalogue(LIFT):
        _, part, rest = p.sentence.split(' ', 2)
        assert p.part == {'lighting': 'light'}.get(part, part)
        target = rest.rpartition('to ')[2]
        if p.property == 'size':
            assert p.value == tuple(map(float, target.strip('()').split(', ')))
        elif p.name == 'gray_table':
            assert p.value == (0.7, 0.7, 0.7)
        else:
            assert p.value == colours[target]


def test_catalogue_is_looked_up_by_name():
    catalogue = load_catalogue(LIFT)
    assert (catalogue.task, catalogue.path, len(catalogue)) == ('lift', str(LIFT), 21)
    assert catalogue.digest == hashlib.sha256(LIFT.read_bytes()).hexdigest()
    assert catalogue['wide_table'].value == (0.2, 0.8, 0.025)
    assert catalogue.names[0] == 'red_cube' and catalogue['red_cube'] == RED_CUBE
    with pytest.raises(KeyError):
        catalogue['nominal']


def test_condition_from_names():
    catalogue = load_catalogue(LIFT)
    assert catalogue.condition(()) == NOMINAL
    assert catalogue.condition(['wide_table', 'red_cube']).names == ('red_cube', 'wide_table')
    assert 'pink_cube' in refusal(catalogue.condition, ['red_cube', 'pink_cube'])
    message = refusal(catalogue.condition, ['red_cube', 'red_table', 'blue_cube'])
    assert all(word in message for word in ('red_cube', 'blue_cube', 'cube.color'))


def test_every_task_has_a_default_catalogue(tmp_path, monkeypatch):
    """Found where an installed package keeps it; here the source tree stands in for one."""
    marker = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'robomd_ros'
    marker.parent.mkdir(parents=True)
    marker.touch()
    (tmp_path / 'share' / 'robomd_ros').symlink_to(ROOT)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    for task in TASKS:
        assert load_catalogue(default_catalogue(task)).task == task
    assert all(task in refusal(default_catalogue, 'juggle') for task in TASKS)


# Catalogue files

def test_every_property_can_be_set(load):
    """One perturbation of each property of each kind of part, without any code for it."""
    lines = ['task: lift', 'perturbations:']
    for part, kind in {'gripper': 'object', 'body:cube_main': 'object', 'geom:floor': 'object',
                       'light': 'light', 'camera': 'camera', 'camera:frontview': 'camera'}.items():
        for name, prop in PROPERTIES[kind].items():
            middle = (prop.low + prop.high) / 2
            value = {0: 'red-wood', 1: middle}.get(len(prop.components), [middle] * 3)
            lines.append(entry(f'n{len(lines)}', f'{part}.{name}', value).rstrip())
    catalogue = load('\n'.join(lines))
    assert len(catalogue) == 3 * 5 + 3 + 2 * 3
    assert catalogue.perturbations[0].value == (0.5, 0.5, 0.5)
    assert catalogue.perturbations[2].value == 'red-wood'
    assert catalogue.perturbations[4].value == 50.0005


def test_limits_are_allowed_and_numbers_are_floats(load):
    catalogue = load(GOOD + entry(slot='camera.rotation', value='[-45, 0, 45]'))
    assert catalogue['one'].value == (-45.0, 0.0, 45.0)
    assert all(isinstance(number, float) for number in catalogue['one'].value)


def test_texture_file_is_found_beside_the_catalogue(load, tmp_path):
    (tmp_path / 'marble.png').write_bytes(b'')
    catalogue = load(GOOD + entry(slot='table.texture', value='marble.png'))
    assert catalogue['one'].value == str(tmp_path / 'marble.png')


def test_sentence_may_be_folded(load):
    catalogue = load(GOOD + entry(sentence='>\n      Make the cube\n      heavier'))
    assert catalogue['one'].sentence == 'Make the cube heavier'


@pytest.mark.parametrize('content, line, word', [
    # not YAML, or not this YAML
    ('', 1, 'empty'),
    ('# nothing but a comment\n', 1, 'empty'),
    ('task: lift\nperturbations: [1, 2\n', 3, 'not YAML'),
    ('task: lift\nperturbations:\n\t- name: x\n', 3, 'not YAML'),
    ('task: lift\n---\ntask: lift\n', 2, 'not YAML'),
    ('task: lift\nperturbations: *all\n', 2, 'not YAML'),
    (b'task: lift\nname: \x00\n', 2, 'not YAML'),
    (b'task: lift\n# caf\xe9\n', 2, 'UTF-8'),
    ('[' * 5000, 1, 'nested'),
    ('- name: x\n', 1, 'mapping'),
    ('lift\n', 1, 'mapping'),
    # the top level
    ('perturbations: []\n', 1, "'task'"),
    ('task: lift\n', 1, "'perturbations'"),
    (GOOD + 'robot: Panda\n', 7, "unknown key 'robot'"),
    (GOOD + 'task: lift\n', 7, 'line 1'),
    (GOOD.replace('lift', 'lfit'), 1, 'the known tasks are: lift'),
    (GOOD.replace('lift', '[lift]'), 1, "'task'"),
    ('task: lift\nperturbations: []\n', 2, "'perturbations'"),
    ('task: lift\nperturbations:\n', 2, "'perturbations'"),
    ('task: lift\nperturbations: {name: x}\n', 2, "'perturbations'"),
    # an entry
    (GOOD + '  - red_cube\n', 7, 'mapping'),
    (GOOD + '  - name: one\n    slot: cube.mass\n    value: 1\n', 7, "'sentence' is missing"),
    (GOOD + entry() + '    colour: red\n', 11, "unknown key 'colour'"),
    (GOOD + entry() + '    value: 0.7\n', 11, 'line 9'),
    (GOOD + entry() + '    <<: {}\n', 11, 'YAML'),
    (GOOD + entry(name='Red-Cube'), 7, "'Red-Cube'"),
    (GOOD + entry(name='2_cubes'), 7, "'2_cubes'"),
    (GOOD + entry(name='"cube\\n"'), 7, 'cube'),
    (GOOD + entry(name='yes'), 7, 'True'),
    (GOOD + entry(name='nominal'), 7, "'nominal'"),
    (GOOD + entry(name='red_table'), 7, 'line 3'),
    (GOOD + entry(slot='table.color', value='[1.0, 0.0, 0.0]'), 7, "'red_table' on line 3"),
    (GOOD + entry(sentence='""'), 10, "'sentence'"),
    (GOOD + entry(sentence='"  "'), 10, "'sentence'"),
    (GOOD + entry(sentence='x' * 201), 10, '200'),
    (GOOD + entry(sentence='12'), 10, "'sentence'"),
    (GOOD + entry(sentence='"a\\0b"'), 10, "'sentence'"),
    # slots
    (GOOD + entry(slot='cub.mass'), 8,
     'cube, table, robot, arm, gripper, floor, wall, light, camera'),
    (GOOD + entry(slot='body:.mass'), 8, "unknown slot 'body:.mass'"),
    (GOOD + entry(slot='site:grip.mass'), 8, "unknown slot 'site:grip.mass'"),
    (GOOD + entry(slot='cube.colour'), 8, 'color, size, texture, friction, mass'),
    (GOOD + entry(slot='light.size'), 8, 'color, position, brightness'),
    (GOOD + entry(slot='camera.color'), 8, 'position, rotation, fov'),
    (GOOD + entry(slot='camera:agentview.fov'), 8, 'camera.fov'),
    (GOOD + entry(slot='cube'), 8, "unknown slot 'cube'"),
    (GOOD + entry(slot='"body:a\\nb.mass"'), 8, 'unknown slot'),
    (GOOD + entry(slot='[cube, mass]'), 8, "'slot'"),
    # values
    (GOOD + entry(value=''), 9, 'not empty'),
    (GOOD + entry(value='heavy'), 9, "'heavy'"),
    (GOOD + entry(value='1e-3'), 9, "the text '1e-3'"),
    (GOOD + entry(value='true'), 9, 'True'),
    (GOOD + entry(value='.nan'), 9, 'nan'),
    (GOOD + entry(value='.inf'), 9, 'inf'),
    (GOOD + entry(value='[0.5]'), 9, 'a number'),
    (GOOD + entry(value='0'), 9, 'from 0.001 to 100 kg'),
    (GOOD + entry(value='-0.5'), 9, '-0.5'),
    (GOOD + entry(value='1' * 400), 9, 'from 0.001 to 100 kg'),
    (GOOD + entry(value='2026-99-99'), 9, 'YAML'),
    (GOOD + entry(value='!!python/name:os.system'), 9, 'YAML'),
    (GOOD + entry(value='&x [*x]'), 9, 'a number'),
    (GOOD + entry(slot='cube.color', value='[1, 0]'), 9, '3 numbers'),
    (GOOD + entry(slot='cube.color', value='[1, 0, 0, 1]'), 9, '3 numbers'),
    (GOOD + entry(slot='cube.color', value='[255, 0, 0]'), 9, 'from 0 to 1'),
    (GOOD + entry(slot='cube.color', value='[1, false, 0]'), 9, 'False'),
    (GOOD + entry(slot='cube.color', value='[1, .nan, 0]'), 9, 'nan'),
    (GOOD + entry(slot='cube.color', value='red'), 9, '[red, green, blue]'),
    (GOOD + entry(slot='cube.color', value='{r: 1, g: 0, b: 0}'), 9, '[red, green, blue]'),
    (GOOD + entry(slot='cube.color', value='\n      - 1\n      - 0'), 10, '3 numbers'),
    (GOOD + entry(slot='cube.size', value='[0.04, 0.04, 0]'), 9, 'from 0.001 to 2 m'),
    (GOOD + entry(slot='cube.friction', value='[1, 0.1, -0.1]'), 9, 'from 0 to 5'),
    (GOOD + entry(slot='light.position', value='[0, 0, 11]'), 9, 'from -10 to 10 m'),
    (GOOD + entry(slot='light.brightness', value='6'), 9, 'from 0 to 5'),
    (GOOD + entry(slot='camera.position', value='[0, 0, 0.6]'), 9, 'from -0.5 to 0.5 m'),
    (GOOD + entry(slot='camera.rotation', value='[0, 0, 90]'), 9, 'from -45 to 45 deg'),
    (GOOD + entry(slot='camera.fov', value='180'), 9, 'from 10 to 120 deg'),
    (GOOD + entry(slot='cube.texture', value='""'), 9, 'text'),
    (GOOD + entry(slot='cube.texture', value='7'), 9, 'text'),
    (GOOD + entry(slot='cube.texture', value='marble.png'), 9, 'marble.png'),
    (GOOD + entry(slot='cube.texture', value='textures/marble'), 9, 'textures/marble'),
    (GOOD + entry(slot='cube.texture', value='x' * 5000 + '.PNG'), 9, 'no file'),
])
def test_bad_file_is_refused_in_one_sentence(load, tmp_path, content, line, word):
    message = refusal(load, content)
    assert message.startswith(f'{tmp_path}/bad.yaml, line {line}: ')
    assert word in message.partition(': ')[2]


def test_damaged_file_is_loaded_or_refused_in_one_sentence(load):
    rng = random.Random(0)
    pieces = [*'[]{}:-?*&!|>#%@`"\'\\\t\n\0', '\n---\n', '- ', '? ', '<<: ', '&a ', '*a', '!!int ',
              '!!float ', '!!binary ', '!!timestamp ', '!!set ', '~', '.nan', '\x85', '\u2028']
    refused = 0
    for _ in range(400):
        content = GOOD + entry()
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(content))
            content = content[:start] + rng.choice(pieces) + content[start + rng.randrange(8):]
        try:
            load(content)
        except UserError:
            assert re.search(r'bad\.yaml, line \d+: ', refusal(load, content))
            refused += 1
    assert 200 < refused < 400


def test_file_that_cannot_be_read(tmp_path):
    assert 'no catalogue' in refusal(load_catalogue, tmp_path / 'none.yaml')
    assert 'is a directory' in refusal(load_catalogue, tmp_path)
    (tmp_path / 'file').touch()
    message = refusal(load_catalogue, tmp_path / 'file' / 'lift.yaml')
    assert 'cannot be read' in message and 'file/lift.yaml' in message


# The page

def test_the_page_names_every_property_and_its_values():
    page = DOCS.read_text()
    for kind, properties in PROPERTIES.items():
        for name, prop in properties.items():
            part = {'object': 'PART'}.get(kind, kind)
            assert f'| `{part}.{name}` | {prop.wanted} | {prop.meaning} |' in page


def test_the_pages_example_can_be_loaded(load, tmp_path):
    (tmp_path / 'marble.png').write_bytes(b'')
    example, addition = re.findall(r'```yaml\n(.*?)```', DOCS.read_text(), re.DOTALL)
    assert len(load(example + addition)) == len(load(example)) + 1
    assert {find_property(p.slot, get_task('lift')).meaning for p in load(example)} == {
        prop.meaning for properties in PROPERTIES.values() for prop in properties.values()}


def test_the_digest_is_that_of_the_pictures_too(tmp_path):
    picture = tmp_path / 'marble.png'
    picture.write_bytes(b'one')
    path = tmp_path / 'c.yaml'
    path.write_text('task: lift\nperturbations:\n  - name: marble\n    slot: table.texture\n'
                    '    value: marble.png\n    sentence: Make the table marble\n')
    before = load_catalogue(path)
    assert before.place('marble') == f'{path}, line 3'
    picture.write_bytes(b'two')
    assert load_catalogue(path).digest != before.digest
