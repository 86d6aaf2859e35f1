# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Removes what Fast DDS processes that were killed have left in shared memory."""

from collections import defaultdict
from contextlib import ExitStack, suppress
import fcntl
from pathlib import Path
import re
import time

FOLDER = Path('/dev/shm')
_FIRST_PORT, _PORTS = 7400, 250  # of ROS domain 0, and of each, as DDS has it
_YOUNG = 2.0  # s in which a process that makes a file comes to lock it
_FILE = re.compile(r'(?:sem\.)?(fastrtps_(?:port(\d+)|[0-9a-z]{16}))(?:_el|_sl|_mutex)?')


def port_file(domain: int) -> str:
    """Return the name of the file that all participants in a ROS domain share."""
    return f'fastrtps_port{_FIRST_PORT + _PORTS * domain}'


def remove_dead(folder: Path = FOLDER) -> None:
    """
    Remove the segments whose processes have ended, and all ports of domains nobody is in.

    `fastdds shm clean` leaves the ports whose lock files are gone, so that their domains look
    used. A process that lives holds a lock on <segment>_el and on its own ports' _el or _sl; the
    kernel lets go of it when the process ends, however it does.
    """
    groups: dict[str | int, list[Path]] = defaultdict(list)
    with suppress(OSError):  # there is no such folder, or it may not be read
        for path in folder.iterdir():
            if found := _FILE.fullmatch(path.name):
                name, port = found.groups()
                groups[(int(port) - _FIRST_PORT) // _PORTS if port else name].append(path)
    for paths in groups.values():
        with suppress(OSError):  # it is in use, or another user's
            _remove_unlocked(paths)


def _remove_unlocked(paths: list[Path]) -> None:
    """Remove the files; raise OSError, and remove none, if somebody has or may soon have locks."""
    with ExitStack() as held:
        for path in paths:
            if time.time() - path.stat().st_mtime < _YOUNG:
                return
            if path.name.endswith(('_el', '_sl')):
                lock = held.enter_context(path.open('rb'))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in paths:
            path.unlink()
