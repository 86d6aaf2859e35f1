# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rollouts: one of them, who runs many, and the ledger that keeps them."""

from robomd_ros.rollouts.ledger import (
    Ledger,
    LedgeredRunner,
    LedgerError,
    OtherRunError,
    PolicyUnusable,
)
from robomd_ros.rollouts.local import LocalRunner
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult, RolloutRunner, RunnerError
from robomd_ros.rollouts.rollout import RolloutCanceled, run_rollout
from robomd_ros.rollouts.versions import versions

__all__ = [
    'Ledger', 'LedgeredRunner', 'LedgerError', 'LocalRunner', 'OtherRunError', 'PolicyUnusable',
    'RolloutCanceled', 'RolloutRequest', 'RolloutResult', 'RolloutRunner', 'run_rollout',
    'RunnerError', 'versions']
