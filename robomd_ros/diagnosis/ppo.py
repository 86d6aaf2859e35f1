# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `ppo`: the paper's, on stable-baselines3 (Sec. III-A, Algorithm 1)."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
import hashlib
import io
from itertools import count
import json
from pathlib import Path
import threading
from typing import Any, TypeVar
import warnings
import zipfile

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
import torch

from robomd_ros.diagnosis.environment import (
    control_request, run_one, Search, SEARCH_TRIALS, SearchEnv)
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import write_whole
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult

PAPER: dict[str, Any] = {  # what the paper's appendix says; the rest is stable-baselines3's
    'learning_rate': 3e-4, 'gamma': 0.99, 'clip_range': 0.2, 'n_epochs': 10, 'batch_size': 64,
    'policy_kwargs': {'net_arch': [128, 256, 128]}}
PHASE = 64  # rollouts between two updates of the weights

T = TypeVar('T')


@dataclass(frozen=True)
class Plan:
    """
    How a budget is spent: control rollouts, about a tenth, and the search's, in phases.

    rollouts: the budget. parallel: environments. steps: of each of them in a whole phase.
    """

    rollouts: int
    parallel: int
    steps: int

    @property
    def search(self) -> int:
        """Rollouts of the search: equally many in every environment."""
        control = max(1, (self.rollouts + 5) // 10)
        return (self.rollouts - control) // self.parallel * self.parallel

    @property
    def phases(self) -> list[int]:
        """Steps of each environment in each phase; the last phase may be shorter."""
        whole, rest = divmod(self.search // self.parallel, self.steps)
        return [self.steps] * whole + [rest] * (rest > 0)

    def before(self, phase: int) -> int:
        """Return how many rollouts the search has had before the phase."""
        return sum(self.phases[:phase]) * self.parallel

    def controls(self, phase: int) -> int:
        """Return how many control rollouts there are to be by the start of the phase."""
        rest = self.rollouts - self.search - 1
        return 1 + rest * self.before(phase) // self.search

    @property
    def possible(self) -> bool:
        """Whether PPO has something to learn from."""
        return self.search >= max(2, self.parallel)


@dataclass(frozen=True)
class Transition:
    """
    One step of an environment, as PPO learns from it.

    observation: (3, 84, 84) uint8. start: whether it is an episode's first. log_prob: of the action.
    """

    observation: np.ndarray
    action: int
    reward: float
    start: bool
    value: torch.Tensor
    log_prob: torch.Tensor
    info: dict[str, Any]


class Walk:
    """An environment and where it stands. observation, start: what the next Transition has."""

    def __init__(self, number: int, search: Search, plan: Plan) -> None:
        def key(rollout: int) -> str:
            phase, step = divmod(rollout, plan.steps)
            return f'ppo/{phase}/{number}/{step}'

        self.number, self.key = number, key
        self.environment = SearchEnv(
            search.catalogue, search.runner, search.seed, key=key,
            trial=lambda rollout: SEARCH_TRIALS + rollout * plan.parallel + number)
        self.observation = np.zeros((3, 84, 84), np.uint8)
        self.start = True

    def restart(self) -> None:
        """Begin an episode."""
        self.observation, self.start = _channels_first(self.environment.reset()[0]), True

    def follow(
        self, step: tuple[np.ndarray, float, bool, bool, dict[str, Any]],
    ) -> tuple[float, np.ndarray | None, dict[str, Any]]:
        """
        Go where the environment's step has led.

        Return the reward, the observation a truncated episode ended with, else None, and the info.
        """
        picture, reward, terminated, truncated, info = step
        last = _channels_first(picture)
        if terminated or truncated:
            self.restart()
        else:
            self.observation, self.start = last, False
        return reward, last if truncated else None, info


class SearchPPO(PPO):
    """
    Stable-baselines3's PPO, whose environments need not wait for each other within a phase.

    The weights do not change within a phase, so what is learnt is the same. All random numbers are
    functions of the seed and of where in the search they are drawn, so there is no state of a
    generator to save.
    """

    def __init__(self, seed: int, plan: Plan, walks: list[Walk]) -> None:
        """Make the networks, their weights drawn with the seed."""
        self.search_seed, self.history = seed, ''
        set_random_seed(_derive(seed))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'You have specified a mini-batch size')
            super().__init__(
                'CnnPolicy', DummyVecEnv([lambda walk=walk: walk.environment for walk in walks]),
                n_steps=max(plan.steps, 2), device='cpu', **PAPER)
        self.set_logger(Logger(folder=None, output_formats=[]))
        self.policy.set_training_mode(False)

    def preferences(self, observations: np.ndarray) -> torch.Tensor:
        """Return pi(a|s), (n, actions), of observations (n, 3, 84, 84)."""
        with torch.no_grad():
            return self.policy.get_distribution(torch.as_tensor(observations)).distribution.probs

    def values(self, observations: np.ndarray) -> torch.Tensor:
        """Return the critic's values, (n,), of observations (n, 3, 84, 84)."""
        with torch.no_grad():
            return self.policy.predict_values(torch.as_tensor(observations)).flatten()

    def advance(self, walk: Walk, phase: int, steps: int, stop: threading.Event) -> list[Transition]:
        """Have one environment take its steps of the phase, or fewer if told to stop."""
        transitions = []
        for step in range(steps):
            if stop.is_set():
                break
            observation, start = walk.observation, walk.start
            preferences = self.preferences(observation[None])[0]
            generator = torch.Generator()
            generator.manual_seed(_derive(self.search_seed, phase, walk.number, step))
            action = int(torch.multinomial(preferences, 1, generator=generator))
            reward, last, info = walk.follow(walk.environment.step(action))
            if last is not None:  # what would have come after a truncated episode
                reward += self.gamma * float(self.values(last[None]))
            transitions.append(Transition(
                observation, action, reward, start, self.values(observation[None])[0],
                preferences[action].log(), info))
        return transitions

    def learn_phase(self, phase: int, walks: list[Walk], taken: list[list[Transition]]) -> None:
        """Update the weights from what the environments did in the phase."""
        buffer = self.rollout_buffer
        buffer.buffer_size = len(taken[0])
        buffer.reset()
        for step in zip(*taken, strict=True):
            buffer.add(
                np.array([t.observation for t in step]), np.array([[t.action] for t in step]),
                np.array([t.reward for t in step]), np.array([t.start for t in step]),
                torch.stack([t.value for t in step]), torch.stack([t.log_prob for t in step]))
        buffer.compute_returns_and_advantage(
            self.values(np.array([walk.observation for walk in walks])),
            np.array([walk.start for walk in walks]))
        set_random_seed(_derive(self.search_seed, phase))
        self.train()
        self.policy.set_training_mode(False)
        self.num_timesteps += len(taken) * len(taken[0])
        self.history = _history(self.history, [[t.info for t in walk] for walk in taken])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), '_last_obs', '_last_episode_starts']
