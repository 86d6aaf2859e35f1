# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every loader does with a user's files, and how it tells what went wrong in them."""

import hashlib
import os
from pathlib import Path
import re
import sysconfig
import traceback

from robomd_ros.errors import UserError

_LIBRARIES = [sysconfig.get_path(name) for name in ('stdlib', 'purelib', 'platlib')]
_NOT_THE_USERS = ('<', *(f'{path}{os.sep}' for path in (*_LIBRARIES, Path(__file__).parents[1])))


def check_file(path: Path, what: str) -> None:
    """
    Raise UserError, naming it, unless the path is a file that can be read and is not empty.

    what: what the file is to its reader, e.g. 'a TorchScript file'.
    """
    try:
        with path.open('rb') as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise UserError(f'There is no file {path}; give the path of {what}.') from None
    except IsADirectoryError:
        raise UserError(f'{path} is a directory; give the path of {what}.') from None
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}); '
                        f'give the path of {what}.') from None
    if empty:
        raise UserError(f'{path} is empty; give the path of {what}.')


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of the files' bytes one after the other, hex, as cat and sha256sum do."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def describe(error: Exception) -> str:
    """Return an error of somebody else's code as one clause: what, and where in their file."""
    if isinstance(error, SyntaxError):
        return f'{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})'
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch puts the reason last, after where in TorchScript it arose, or first, before where in
    # the file it cannot go on, and advises behind it.
    reason = lines[0 if lines[-1].endswith('HERE') else -1] if lines else 'no reason given'
    reason = reason.split('. ')[0].rstrip('.:')[:300]
    if not re.match(r'\w*(Error|Exception): ', reason):
        reason = f'{type(error).__name__}: {reason}'
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_THE_USERS):
            return f'{reason} ({frame.filename}, line {frame.lineno})'
    return reason
