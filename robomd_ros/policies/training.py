# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Demonstrations by a scripted expert, and a visuomotor policy trained on them.

The policy learns by DAgger (Ross et al. 2011).
"""

from dataclasses import dataclass, field, replace

import numpy as np
from robomd_ros.conditions import NOMINAL
from robomd_ros.conditions.tasks import get_task
from robomd_ros.policies.experts import get_expert
from robomd_ros.policies.visuomotor import (
    state_vector,
    VisuomotorConfig,
    VisuomotorNet,
    VisuomotorPolicy,
)
from robomd_ros.worlds.mujoco_world import MujocoWorld
from robomd_ros.worlds.protocol import PolicyNeeds
import torch
from torch.nn import functional
from tqdm import tqdm

STATE = ('robot0_eef_pos', 'robot0_eef_quat', 'robot0_gripper_qpos', 'robot0_gripper_qvel')
# Initial states of training, kept apart from those of evaluation and diagnosis,
# whose seeds are small.
TRAINING_SEED = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """
    How a policy is trained.

    demonstrations: rollouts of the expert, with noise of standard deviation `noise` added to the
    action it carries out.
    rounds: how often the policy is rolled out in turn and the expert says what it would have done,
    `rollouts` times.
    epochs: over all data, after the demonstrations and after each round.
    """

    demonstrations: int = 200
    noise: float = 0.3
    rounds: int = 2
    rollouts: int = 100
    epochs: tuple[int, ...] = (10, 6, 14)
    batch: int = 64
    learning_rate: float = 1e-3


@dataclass
class Frames:
    """
    What has been seen and what the expert did.

    images: (n, size, size, 3) uint8. states, actions: (n, ...).
    """

    images: list[np.ndarray] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rollouts: int = 0
    successes: int = 0

    def __len__(self) -> int:
        return len(self.images)


def train(task: str, recipe: Recipe, seed: int = 0) -> tuple[VisuomotorPolicy, dict[str, object]]:
    """
    Return a visuomotor policy for a task, and what is known of its making.

    Raises UserError if the task has no scripted expert.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    world_task = get_task(task)
    expert, wanted = get_expert(task)
    needs = PolicyNeeds(
        images={world_task.camera: (84, 84)}, state=tuple(dict.fromkeys((*STATE, *wanted))),
        fidelity='fast')
    world = MujocoWorld(task, needs)
    first = world.reset(NOMINAL, TRAINING_SEED + seed, 0)
    config = VisuomotorConfig(
        task=task, camera=world_task.camera, size=84, state=STATE,
        state_size=sum(len(first[name]) for name in STATE), action_size=needs.action_size,
        fidelity='fast')
    policy = VisuomotorPolicy(VisuomotorNet(config), config)

    def collect(frames: Frames, rollouts: int, driver: VisuomotorPolicy | None,
                what: str) -> Frames:
        bar = tqdm(range(rollouts), desc=what, unit='rollout')
        for _ in bar:
            observation = world.reset(NOMINAL, TRAINING_SEED + seed, frames.rollouts)
            while world.outcome() is None:
                action = expert(observation)
                frames.images.append(observation[f'{config.camera}_image'])
                frames.states.append(state_vector(observation, config))
                frames.actions.append(action.astype(np.float32))
                if driver is not None:
                    action = driver.act(observation)
                else:
                    action = action + [*rng.normal(0.0, recipe.noise, 3), 0, 0, 0, 0]
                observation = world.step(action)
            outcome = world.outcome()
            frames.rollouts += 1
            frames.successes += outcome is not None and outcome.verdict == 'success'
            bar.set_postfix(success=f'{frames.successes}/{frames.rollouts}', frames=len(frames))
        return frames

    frames = collect(Frames(), recipe.demonstrations, None, 'expert demonstrates')
    history: list[dict[str, object]] = [{'by': 'expert', 'rollouts': frames.rollouts,
                                         'successes': frames.successes, 'frames': len(frames)}]
    states = np.array(frames.states)
    policy.net.state_mean[:] = torch.from_numpy(states.mean(0))
    policy.net.state_scale[:] = torch.from_numpy(states.std(0) + 1e-3)
    fit(policy.net, frames, recipe, recipe.epochs[0])
    for turn in range(1, recipe.rounds + 1):
        before = replace(frames)
        collect(frames, recipe.rollouts, policy, f'policy drives, round {turn}')
        history.append({'by': 'policy', 'rollouts': frames.rollouts - before.rollouts,
                        'successes': frames.successes - before.successes, 'frames': len(frames)})
        fit(policy.net, frames, recipe, recipe.epochs[turn])
    world.close()
    return policy, {'task': task, 'seed': seed, 'recipe': recipe.__dict__, 'frames': len(frames),
                    'data': history}


def fit(net: VisuomotorNet, frames: Frames, recipe: Recipe, epochs: int) -> None:
    """
    Train the network on the frames.

    Mean squared error, Adam, learning rate along half a cosine.
    """
    images = torch.from_numpy(np.array(frames.images))
    states = torch.from_numpy(np.array(frames.states))
    actions = torch.from_numpy(np.array(frames.actions))
    optimiser = torch.optim.Adam(net.parameters(), recipe.learning_rate)
    steps = epochs * (len(frames) // recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    net.train()
    with tqdm(total=steps, desc=f'training on {len(frames)} frames', unit='batch') as bar:
        for _ in range(epochs):
            order = torch.randperm(len(frames))
            for rows in order[:len(order) // recipe.batch * recipe.batch].split(recipe.batch):
                loss = functional.mse_loss(net(images[rows], states[rows]), actions[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f'{loss.item():.4f}')
    net.eval()
