# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The searcher `ppo`: the paper's, on stable-baselines3 (Sec. III-A, Algorithm 1)."""

from typing import Any
import warnings

from robomd_ros.diagnosis.environment import Search
from robomd_ros.diagnosis.on_policy import check_budget, Learner, Plan, run_phases, Walk
from stable_baselines3 import PPO

__all__ = ('PAPER', 'PHASE', 'SearchPPO', 'check_budget', 'search')

PAPER: dict[str, Any] = {  # what the paper's appendix says; the rest is stable-baselines3's
    'learning_rate': 3e-4, 'gamma': 0.99, 'clip_range': 0.2, 'n_epochs': 10, 'batch_size': 64,
    'policy_kwargs': {'net_arch': [128, 256, 128]}}
PHASE = 64  # rollouts between two updates of the weights, of all environments together


class SearchPPO(Learner, PPO):
    """Stable-baselines3's PPO (Schulman et al. 2017), searching in phases."""

    searcher = 'ppo'
    preset = PAPER

    def __init__(self, seed: int, plan: Plan, walks: list[Walk]) -> None:
        """Make the networks, their weights drawn with the seed."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'You have specified a mini-batch size')
            super().__init__(seed, plan, walks)


def search(search: Search) -> None:
    """Run the search, whose budget is one that check_budget takes."""
    run_phases(search, SearchPPO, max(1, PHASE // search.runner.parallel))
