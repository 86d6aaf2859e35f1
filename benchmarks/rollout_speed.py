# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
How fast a closed loop of policy and camera is on one core, against robosuite's and the bound.

    python benchmarks/rollout_speed.py [--trials 10] [--steps 40] [--policy builtin:lift]
        [--out FILE.json]

The same policy acts from the same initial states for the same number of control steps in each; all
are run in turn, trial by trial, so that what else the machine does hits all alike. The bound is
what cannot be saved: 25 calls of mj_step from the very states of the rollouts, one render and one
call of the policy for each control step.
"""

import argparse
import json
import os
from pathlib import Path
import time

if __name__ == '__main__':  # before the libraries that read them are loaded
    os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', LP_NUM_THREADS='1')

import numpy as np
from robomd_ros.conditions import NOMINAL
from robomd_ros.policies import load_policy
from robomd_ros.rollouts.versions import versions
from robomd_ros.worlds.mujoco_world import MujocoWorld
from tqdm import tqdm


def robosuite_environment(needs):
    """Return robosuite's environment as its users make it, with its own camera observations."""
    import robosuite
    (camera, (height, width)), = needs.images.items()
    return robosuite.make(
        'Lift', robots='Panda', has_renderer=False, has_offscreen_renderer=True,
        use_camera_obs=True, camera_names=camera, camera_heights=height, camera_widths=width,
        control_freq=20, hard_reset=False, ignore_done=True, seed=0)


def time_robosuite(environment, policy, trial, steps):
    """Return the seconds of one rollout on robosuite's own environment."""
    environment.sim._render_context_offscreen.gl_ctx.make_current()
    begin = time.perf_counter()
    environment.rng.bit_generator.state = np.random.default_rng([0, trial]).bit_generator.state
    observation = environment.reset()
    policy.reset('')
    for _ in range(steps):
        for camera in policy.needs.images:
            observation[f'{camera}_image'] = np.ascontiguousarray(
                observation[f'{camera}_image'][::-1])
        observation, _, _, _ = environment.step(policy.act(observation))
        environment._check_success()
    return time.perf_counter() - begin


def time_world(world, policy, trial, steps, states=None):
    """
    Return the seconds of one rollout on ours.

    states: where to keep (qpos, qvel, ctrl) of each step.
    """
    data = world._data
    begin = time.perf_counter()
    aside = 0.0
    observation = world.reset(NOMINAL, 0, trial)
    policy.reset('')
    for _ in range(steps):
        observation = world.step(policy.act(observation))
        world.outcome()
        if states is not None:
            pause = time.perf_counter()
            states.append((data.qpos.copy(), data.qvel.copy(), data.ctrl.copy(), observation))
            aside += time.perf_counter() - pause
    return time.perf_counter() - begin - aside


def time_bound(world, policy, states):
    """Return the seconds of physics, one render and one policy call from each of the states."""
    model, data, mujoco = world._model, world._data, world._mujoco
    (camera, (height, width)), = policy.needs.images.items()
    total = np.zeros(3)
    for qpos, qvel, ctrl, observation in states:
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
        ticks = [time.perf_counter()]
        for _ in range(25):
            mujoco.mj_step(model, data)
        ticks.append(time.perf_counter())
        world._camera.draw(camera, height, width)
        ticks.append(time.perf_counter())
        policy.act(observation)
        ticks.append(time.perf_counter())
        total += np.diff(ticks)
    return total


def main():
    """Run the benchmark and print all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--policy', default='builtin:lift',
        help='the policy, with one camera (default: %(default)s)')
    parser.add_argument(
        '--trials', type=int, default=10, help='initial states (default: %(default)s)')
    parser.add_argument(
        '--steps', type=int, default=40, help='control steps of each (default: %(default)s)')
    parser.add_argument('--out', type=Path, help='also write the results there, as JSON')
    arguments = parser.parse_args()
    policy = load_policy(arguments.policy, 'lift')
    import torch
    torch.set_num_threads(1)
    fast = MujocoWorld('lift', policy.needs, 'fast')
    full = MujocoWorld('lift', policy.needs, 'full')
    theirs = robosuite_environment(policy.needs)
    rows = {'robosuite': [], 'ours, full': [], 'ours, fast': [], 'bound, fast': []}
    parts = np.zeros(3)
    for trial in tqdm(range(-1, arguments.trials), unit='trial'):
        states = []
        seconds = (time_robosuite(theirs, policy, trial + 1, arguments.steps),
                   time_world(full, policy, trial + 1, arguments.steps),
                   time_world(fast, policy, trial + 1, arguments.steps, states))
        bound = time_bound(fast, policy, states)
        if trial >= 0:  # the first one warms up
            for row, value in zip(rows.values(), (*seconds, bound.sum()), strict=True):
                row.append(1e3 * value / arguments.steps)
            parts += 1e3 * bound / arguments.steps / arguments.trials
    medians = {name: float(np.median(row)) for name, row in rows.items()}
    for name, milliseconds in medians.items():
        print(f'{name:12} {milliseconds:7.2f} ms a control step '
              f'(median of {arguments.trials} rollouts)')
    print('  of the bound: physics {:.2f}, render {:.2f}, policy {:.2f} ms'.format(*parts))
    ratio = np.array(rows['robosuite']) / np.array(rows['ours, fast'])
    share = np.array(rows['bound, fast']) / np.array(rows['ours, fast'])
    print(f'fast is {np.median(ratio):.1f} times as fast as robosuite (quartiles '
          f'{np.percentile(ratio, 25):.1f} to {np.percentile(ratio, 75):.1f}), and at '
          f'{np.median(share):.0%} of the bound '
          f'({np.percentile(share, 25):.0%} to {np.percentile(share, 75):.0%})')
    if arguments.out:
        arguments.out.write_text(json.dumps({
            'ms_per_step': rows, 'bound_parts_ms': parts.tolist(),
            'speedup': float(np.median(ratio)), 'share_of_bound': float(np.median(share)),
            'policy': arguments.policy, 'trials': arguments.trials, 'steps': arguments.steps,
            'renderer': fast.info.renderer, 'versions': versions()}, indent=2) + '\n')


if __name__ == '__main__':
    main()
