# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The searcher `a2c`: stable-baselines3's A2C (Mnih et al. 2016) in the place of the paper's PPO.

The paper's appendix gives its A2C epsilon-greedy choices, epsilon going from 1.0 to 0.1, and a
replay buffer with batches of 64. Neither is A2C's, which is on-policy: it learns once from what
its present weights have chosen, n_steps in each environment. So this is A2C proper, and what
keeps it exploring is the bonus for entropy (Williams and Peng 1991). Its weight falls as the
paper's epsilon does, to a tenth, and ends at the 0.01 of Mnih et al.
"""

from typing import Any

from robomd_ros.diagnosis.environment import Search
from robomd_ros.diagnosis.on_policy import Learner, run_phases
from stable_baselines3 import A2C

PAPER: dict[str, Any] = {  # what the paper's appendix says; the rest is stable-baselines3's
    'learning_rate': 2.5e-4, 'gamma': 0.99, 'policy_kwargs': {'net_arch': [128, 256, 128]}}
STEPS = 5  # of an environment between two updates of the weights; stable-baselines3's n_steps
ENTROPY = 0.1, 0.01  # weight of the entropy in the loss: at first, and at last
ANNEALED = 300  # rollouts from the one to the other; the paper's 500,000 are beyond any budget


class SearchA2C(Learner, A2C):
    """Stable-baselines3's A2C, searching in phases, with less and less of a bonus for entropy."""

    searcher = 'a2c'
    preset = PAPER

    def train(self) -> None:
        """Update the weights from the buffer."""
        self.ent_coef = entropy_weight(self.num_timesteps)
        super().train()


def entropy_weight(rollouts: int) -> float:
    """
    Return the weight of the entropy in the loss, after so many rollouts of the search.

    It depends on nothing else: a search whose budget is raised goes on as the larger one would.
    """
    first, last = ENTROPY
    return first + (last - first) * min(rollouts / ANNEALED, 1.0)


def search(search: Search) -> None:
    """Run the search, whose budget is one that check_budget takes."""
    run_phases(search, SearchA2C, STEPS)
