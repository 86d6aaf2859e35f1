# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Suspicion: how far the policy's actions deviate under each change, before any rollout of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
import json
import math
from pathlib import Path
from typing import Any

from robomd_ros.conditions import Catalogue, Condition
from robomd_ros.rollouts.ledger import write_whole
from robomd_ros.rollouts.protocol import PolicyRunner

SUSPICION_FILE = 'suspicion.json'
DEPENDS_ON = ('task', 'policy_digest', 'catalogue_digest', 'model_digest', 'fidelity', 'horizon',
              'seed')


@dataclass(frozen=True)
class Suspicion:
    """
    The counterfactual action deviation of every perturbation; no rate.

    deviation: perturbation name -> mean L2 distance between the translations the policy asks for
    in the nominal scene and under the change, from the same states, in action units (-1 to 1).
    gripper: the same of the gripper's part. Both are NaN where the policy gives no action.
    states: how many; rollouts: nominal ones they are of.
    """

    deviation: dict[str, float]
    gripper: dict[str, float]
    states: int
    rollouts: int

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: None in the place of NaN."""
        return asdict(self) | {
            part: {name: None if math.isnan(value) else value for name, value in values.items()}
            for part, values in (('deviation', self.deviation), ('gripper', self.gripper))}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> 'Suspicion':
        """Return that of to_dict."""
        return Suspicion(**content | {
            part: {name: math.nan if value is None else value
                   for name, value in content[part].items()}
            for part in ('deviation', 'gripper')})


def read_suspicion(
    out: Path, catalogue: Catalogue, settings: Mapping[str, Any],
) -> Suspicion | None:
    """Return what DIR/suspicion.json says, None if that is not of these settings."""
    try:
        content = json.loads((out / SUSPICION_FILE).read_text('utf-8'))
        if any(content['settings'][name] != settings[name] for name in DEPENDS_ON):
            return None
        found = Suspicion.from_dict(content['suspicion'])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    complete = found.deviation.keys() == found.gripper.keys() == set(catalogue.names)
    return found if complete else None


def measure_suspicion(
    out: Path,
    catalogue: Catalogue,
    runner: PolicyRunner,
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    command: str,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Suspicion:
    """
    Measure it and write DIR/suspicion.json.

    settings: DEPENDS_ON at least. on_progress: called with how many perturbations are done.
    Raises what the runner does, and LedgerError if the file cannot be written.
    """
    conditions = [Condition((perturbation,)) for perturbation in catalogue]
    measured = runner.deviations(conditions, settings['seed'], on_progress)
    found = Suspicion(
        dict(zip(catalogue.names, (each.translation for each in measured), strict=True)),
        dict(zip(catalogue.names, (each.gripper for each in measured), strict=True)),
        measured[0].states, measured[0].rollouts)
    content = {'suspicion': found.to_dict(), 'settings': {n: settings[n] for n in DEPENDS_ON},
               'versions': dict(versions), 'command': command}
    text = json.dumps(content, indent=2, allow_nan=False)
    write_whole(out / SUSPICION_FILE, f'{text}\n'.encode())
    return found
