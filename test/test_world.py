# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""MujocoWorld: edits undone exactly, determinism, robosuite's own physics and pictures."""

from pathlib import Path

import numpy as np
import pytest
from robomd_ros.conditions import Condition, load_catalogue, NOMINAL, Perturbation
from robomd_ros.conditions.tasks import get_task
from robomd_ros.errors import UserError
from robomd_ros.policies.experts import lift_expert
from robomd_ros.policies.protocol import PolicyNeeds
from robomd_ros.worlds.mujoco_world import MujocoWorld
from robomd_ros.worlds.renderer import choose_renderer

CATALOGUE = load_catalogue(Path(__file__).parents[1] / 'config' / 'catalogues' / 'lift.yaml')
STATE = ('robot0_eef_pos', 'robot0_eef_quat', 'robot0_gripper_qpos', 'robot0_gripper_qvel',
         'cube_pos', 'object')
NEEDS = PolicyNeeds(images={'agentview': (84, 84)}, state=STATE, fidelity='fast')


@pytest.fixture(scope='module')
def world():
    made = MujocoWorld('lift', NEEDS, horizon=60)
    yield made
    made.close()


@pytest.fixture(scope='module')
def plain():
    """Robosuite's own environment with its own camera observations."""
    choose_renderer()
    import robosuite
    made = robosuite.make(
        'Lift', robots='Panda', has_renderer=False, has_offscreen_renderer=True,
        use_camera_obs=True, camera_names='agentview', camera_heights=84, camera_widths=84,
        hard_reset=False, control_freq=20, seed=0)
    yield made
    made.close()


def change(slot, value):
    return Condition((Perturbation('changed', slot, value, 'A change'),))


def actions(number, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (number, 7))


def run(world, condition, trial, number=12):
    frames = [world.reset(condition, 0, trial)]
    return frames + [world.step(action) for action in actions(number)]


def same(first, second):
    return all(np.array_equal(a[key], b[key])
               for a, b in zip(first, second, strict=True) for key in a)


def random_condition(rng):
    by_slot = {p.slot: p for p in rng.permutation(np.array(CATALOGUE.perturbations, object))}
    return Condition(tuple(list(by_slot.values())[:rng.integers(0, 6)]))


def test_100_edits_are_undone_bit_for_bit(world):
    world.reset(NOMINAL, 0, 0)
    nominal = world.model_digest()
    rng = np.random.default_rng(0)
    digests = set()
    for trial in range(100):
        world.reset(random_condition(rng), 0, trial)
        digests.add(world.model_digest())
    assert len(digests) > 50
    world.reset(NOMINAL, 0, 0)
    assert world.model_digest() == nominal == world.info.model_digest


@pytest.mark.parametrize('slot, value', [
    ('cube.color', (0.0, 1.0, 0.0)), ('table.size', (0.3, 0.5, 0.02)),
    ('cube.size', (0.03, 0.01, 0.02)), ('table.texture', 'red-wood'), ('cube.texture', 'metal'),
    ('cube.friction', (0.1, 0.0, 0.0)), ('gripper.friction', (0.2, 0.0, 0.0)),
    ('cube.mass', 1.5), ('body:robot0_link7.mass', 2.0),
    ('geom:table_leg1_visual.color', (1.0, 0.0, 0.0)), ('light.color', (1.0, 0.0, 0.0)),
    ('light.position', (2.0, -2.0, 1.0)), ('light.brightness', 0.3),
    ('camera.position', (0.1, 0.0, 0.1)), ('camera.rotation', (10.0, 5.0, -5.0)),
    ('camera.fov', 60.0)])
def test_every_property_changes_the_world_and_is_undone(world, slot, value):
    before = run(world, NOMINAL, 1)
    digest = world.model_digest()
    during = run(world, change(slot, value), 1)
    assert world.model_digest() != digest
    if slot.partition('.')[2] not in ('friction', 'mass') and not slot.startswith('geom'):
        assert not np.array_equal(before[0]['agentview_image'], during[0]['agentview_image'])
    assert same(run(world, NOMINAL, 1), before)
    assert world.model_digest() == digest


@pytest.mark.parametrize('slot, value, word', [
    ('robot.size', (0.1, 0.1, 0.1), 'boxes'), ('body:nothing.color', (1.0, 0.0, 0.0), 'nothing'),
    ('geom:nothing.color', (1.0, 0.0, 0.0), 'nothing'), ('camera:nothing.fov', 50.0, 'nothing'),
    ('cube.texture', 'no-such-picture', 'no-such-picture'),
    ('wall.friction', (1.0, 0.0, 0.0), 'touch'), ('floor.mass', 3.0, 'mass'),
    ('arm.texture', 'metal', 'texture')])
def test_what_cannot_be_set_is_refused_in_a_sentence(world, slot, value, word):
    with pytest.raises(UserError, match=word) as refused:
        world.reset(change(slot, value), 0, 0)
    assert 'changed' in str(refused.value) and '\n' not in str(refused.value)
    assert world.model_digest() == world.info.model_digest


def test_the_same_request_gives_the_same_bits_whatever_came_between(world):
    first = run(world, CATALOGUE.condition(['green_table', 'small_cube']), 5)
    run(world, CATALOGUE.condition(['big_cube', 'red_light']), 6, number=30)
    assert same(run(world, CATALOGUE.condition(['small_cube', 'green_table']), 5), first)
    other = MujocoWorld('lift', NEEDS, horizon=60)
    assert same(run(other, CATALOGUE.condition(['green_table', 'small_cube']), 5), first)
    other.close()


def test_the_initial_state_is_a_function_of_seed_and_trial_alone(world):
    def state(condition, seed, trial):
        return world.reset(condition, seed, trial)['cube_pos']
    nominal = state(NOMINAL, 3, 7)
    assert np.array_equal(state(CATALOGUE.condition(['red_table', 'blue_light']), 3, 7), nominal)
    assert not np.array_equal(state(NOMINAL, 3, 8), nominal)
    assert not np.array_equal(state(NOMINAL, 4, 7), nominal)
    # A smaller cube starts as far above the table, at the same place.
    small = state(CATALOGUE.condition(['small_cube']), 3, 7)
    assert np.array_equal(small[:2], nominal[:2]) and nominal[2] - small[2] > 0.008


def test_resizing_changes_what_can_be_touched_mass_and_inertia(world):
    """The edited model equals one that MuJoCo's compiler makes with a cube of that size."""
    import mujoco
    size = np.array([0.03, 0.02, 0.015])
    world.reset(change('cube.size', tuple(size)), 0, 0)
    spec = mujoco.MjSpec.from_string(world._environment.model.get_xml())
    for geom in spec.body('cube_main').geoms:
        geom.size = size
    compiled, edited = spec.compile(), world._model
    body, geoms, dofs = edited.body('cube_main').id, [88, 89], slice(9, 15)
    assert edited.body_mass[body] == pytest.approx(8 * size.prod() * 1000)
    for name, rows in (
            ('geom_size', geoms), ('geom_rbound', geoms), ('geom_aabb', geoms),
            ('body_mass', body), ('body_inertia', body), ('body_invweight0', body),
            ('body_subtreemass', body), ('dof_invweight0', dofs), ('dof_M0', dofs)):
        np.testing.assert_allclose(
            getattr(edited, name)[rows], getattr(compiled, name)[rows], rtol=1e-5, err_msg=name)


def test_a_resized_cube_lies_still_on_the_table(world):
    for name, height in (('big_cube', 0.04), ('small_cube', 0.01), ('bar_cube', 0.01)):
        world.reset(CATALOGUE.condition([name]), 0, 0)
        assert world.outcome() is None
        for _ in range(15):
            observation = world.step(np.array([0, 0, 1.0, 0, 0, 0, -1.0]))
            assert world.outcome() is None
        assert observation['cube_pos'][2] == pytest.approx(0.8 + height, abs=1e-3)


def test_physics_are_those_of_robosuite(world, plain):
    for trial in range(3):
        observation = world.reset(NOMINAL, 0, trial)
        plain.rng.bit_generator.state = np.random.default_rng([0, trial]).bit_generator.state
        theirs = plain.reset()
        for step in range(40):
            np.testing.assert_allclose(
                observation['robot0_eef_pos'], theirs['robot0_eef_pos'], atol=1e-5)
            np.testing.assert_allclose(observation['cube_pos'], theirs['cube_pos'], atol=1e-5)
            np.testing.assert_allclose(observation['object'], theirs['object-state'], atol=1e-5)
            action = lift_expert(observation)
            assert (world.outcome() is not None) == plain._check_success(), step
            observation = world.step(action)
            theirs = plain.step(action)[0]


def test_full_pictures_are_those_of_robosuite(plain):
    world = MujocoWorld('lift', NEEDS, fidelity='full')
    observation = world.reset(NOMINAL, 0, 4)
    plain.rng.bit_generator.state = np.random.default_rng([0, 4]).bit_generator.state
    theirs = plain.reset()
    for action in actions(3):
        assert np.array_equal(observation['agentview_image'], theirs['agentview_image'][::-1])
        observation, theirs = world.step(action), plain.step(action)[0]
    world.close()


def test_the_expert_lifts_the_cube_and_standing_still_fails(world):
    for trial in range(5):
        observation = world.reset(NOMINAL, 1, trial)
        while world.outcome() is None:
            observation = world.step(lift_expert(observation))
        assert world.outcome().verdict == 'success'
    world.reset(NOMINAL, 1, 0)
    while world.outcome() is None:
        world.step(np.zeros(7))
    assert world.outcome().verdict == 'failure' and world._steps == world.info.horizon == 60


def test_pictures_and_joints_for_people(world):
    world.reset(NOMINAL, 0, 0)
    assert world.picture().shape == (84, 84, 3) and world.picture().dtype == np.uint8
    names, positions, velocities = world.joint_state()
    assert len(names) == len(positions) == len(velocities) == 9
    assert names[0] == 'robot0_joint1' and positions[3] == pytest.approx(-2.6, abs=0.1)


def test_unknown_task_and_fidelity_are_refused():
    with pytest.raises(UserError, match='lift'):
        MujocoWorld('juggle', NEEDS)
    with pytest.raises(UserError, match='fast, full'):
        MujocoWorld('lift', NEEDS, fidelity='pretty')


def test_no_open_gl_is_one_sentence(monkeypatch):
    monkeypatch.setattr('ctypes.util.find_library', lambda name: None)
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    with pytest.raises(UserError, match='apt-get install'):
        choose_renderer()
    monkeypatch.setenv('MUJOCO_GL', 'glfw')
    with pytest.raises(UserError, match='MUJOCO_GL'):
        choose_renderer()


def test_every_part_of_the_task_has_geoms(world):
    for part in get_task('lift').parts:
        world.reset(change(f'{part}.color', (0.0, 1.0, 1.0)), 0, 0)


def both(*changes):
    return Condition(tuple(
        Perturbation(f'changed_{slot}', slot, value, 'A change') for slot, value in changes))


def test_slots_of_one_part_add_up(world):
    model = world._model
    table = model.geom('table_visual').id
    world.reset(both(('table.color', (1.0, 0.0, 0.0)), ('table.texture', 'red-wood')), 0, 0)
    assert model.geom_rgba[table].tolist() == [1, 0, 0, 1] and model.geom_matid[table] != -1
    world.reset(both(('light.brightness', 0.2), ('light.color', (1.0, 0.0, 0.0))), 0, 0)
    np.testing.assert_allclose(model.light_diffuse[0], [0.2, 0, 0], rtol=1e-6)
    cube = model.body('cube_main').id
    for slot in ('cube.mass', 'body:cube_main.mass'):
        world.reset(both((slot, 1.0), ('cube.size', (0.04, 0.04, 0.04))), 0, 0)
        assert model.body_mass[cube] == 1.0
        np.testing.assert_allclose(model.body_inertia[cube], 1 / 3 * 2 * 0.04 ** 2)
    world.reset(both(('robot.color', (1.0, 0.0, 0.0)), ('gripper.color', (0.0, 1.0, 0.0))), 0, 0)
    hand, link = (model.geom(name).id for name in ('gripper0_right_hand_visual', 'robot0_g12_vis'))
    assert model.geom_rgba[hand].tolist() == [0, 1, 0, 1]
    assert model.geom_rgba[link].tolist() == [1, 0, 0, 1]
    for texture in ('red-wood', 'metal'):
        world.reset(both(('cube.texture', 'metal'), ('geom:cube_g0_vis.texture', texture)), 0, 0)
    world.reset(NOMINAL, 0, 0)
    assert world.model_digest() == world.info.model_digest


def test_a_simulation_that_blows_up_says_so(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world.reset(NOMINAL, 0, 0)
    world._data.qvel[0] = 1e12
    with pytest.raises(RuntimeError, match='unstable'):
        world.step(np.zeros(7))
    assert not list(tmp_path.iterdir())
    world.reset(NOMINAL, 0, 0)
    world.step(np.zeros(7))


def test_a_catalogue_that_the_model_cannot_take_is_refused_with_its_line(world, tmp_path):
    world.check(CATALOGUE)
    path = tmp_path / 'c.yaml'
    path.write_text('task: lift\nperturbations:\n'
                    '  - {name: red, slot: cube.color, value: [1, 0, 0], sentence: Paint it}\n'
                    '  - {name: ghost, slot: body:ghost.mass, value: 1, sentence: Weigh it}\n')
    with pytest.raises(UserError, match=f'{path}, line 4: .*ghost') as refused:
        world.check(load_catalogue(path))
    assert '\n' not in str(refused.value)
    assert world.model_digest() == world.info.model_digest
