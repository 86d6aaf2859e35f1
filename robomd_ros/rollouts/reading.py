# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reading a ledger without writing to it, also while a diagnosis does."""

from contextlib import closing
import json
import os
from pathlib import Path
import sqlite3
from typing import NamedTuple

from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import End, VERSION


class Entry(NamedTuple):
    """A rollout that has ended. key: as in RolloutRequest."""

    key: str
    end: End


def read_entries(out: Path) -> list[Entry]:
    """
    Return the rollouts in DIR/ledger.sqlite that have ended, in the order they were asked for.

    out: DIR. Raises UserError if there is no ledger or it cannot be read.
    """
    path = out / 'ledger.sqlite'
    if not path.is_file():
        raise UserError(f'There is no ledger {path}; name the folder that a diagnosis wrote its '
                        'results to.')
    try:
        with closing(sqlite3.connect(address(path), uri=True)) as database:
            version, = database.execute('PRAGMA user_version').fetchone()
            if version != VERSION:
                raise UserError(f'{path} is not a ledger of this version of robomd_ros; diagnose '
                                'anew, into another folder.')
            rows = database.execute(
                'SELECT key, condition, purpose, trial, verdict, reason FROM rollouts '
                'WHERE ended IS NOT NULL ORDER BY id').fetchall()
            return [Entry(key, End(tuple(json.loads(condition)), *others))
                    for key, condition, *others in rows]
    except (sqlite3.Error, json.JSONDecodeError) as error:
        raise UserError(f'{path} cannot be read as a ledger ({error}); diagnose anew, into '
                        'another folder.') from error


def address(path: Path) -> str:
    """Return the ledger's URI; SQLite wants to be told of a folder that cannot be written to."""
    wal = path.with_name(f'{path.name}-wal')
    still = not os.access(path.parent, os.W_OK) and not wal.exists()
    return f'{path.resolve().as_uri()}?mode=ro' + '&immutable=1' * still
