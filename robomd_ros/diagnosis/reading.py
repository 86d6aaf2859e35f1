# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reading a diagnosis from its folder, which may still be running."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from robomd_ros.diagnosis.evidence import Evidence
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.errors import UserError
from robomd_ros.rollouts.reading import Entry, read_entries

# What no reader of a map can do without.
_SETTINGS = {'task', 'policy', 'searcher', 'seed', 'horizon'}
_BUDGET = {'asked', 'done', 'invalid'}


@dataclass(frozen=True)
class Diagnosed:
    """
    What a diagnosis has found, and from what.

    map: of DIR/failure_map.json. entries: the rollouts that have ended, in the order they were
    asked for; while the diagnosis runs these can be a few more than the map has seen.
    """

    map: FailureMap  # noqa: A003, what it is called wherever maps are spoken of
    entries: tuple[Entry, ...]

    @cached_property
    def evidence(self) -> Evidence:
        """Return the entries by condition."""
        return Evidence([entry.end for entry in self.entries])


def read_diagnosis(out: Path) -> Diagnosed:
    """
    Return the diagnosis in the folder out, without writing there.

    Raises UserError if it holds no failure map, no ledger, or cannot be read.
    """
    return Diagnosed(read_map(out), tuple(read_entries(out)))


def read_map(out: Path) -> FailureMap:
    """
    Return the map of DIR/failure_map.json.

    out: DIR. Raises UserError if there is none, or it lacks what every diagnosis notes.
    """
    path = out / 'failure_map.json'
    try:
        found = FailureMap.from_json(path.read_text('utf-8'))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or str(error)
        raise UserError(f'{path} cannot be read ({reason}); name the folder that a diagnosis '
                        'wrote its results to.') from error
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    missing = _SETTINGS - found.settings.keys() | _BUDGET - found.budget.keys()
    if missing:
        raise UserError(f'{path} lacks {", ".join(sorted(missing))}; make it anew.')
    return found
