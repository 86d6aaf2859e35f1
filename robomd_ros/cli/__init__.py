# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`robomd`: everything from the command line, with or without a ROS graph."""

import argparse
import shlex
import signal
import sys

from robomd_ros import __version__
from robomd_ros.cli import benchmark, compare, diagnosis, measures, policy, suspect
from robomd_ros.errors import UserError
from robomd_ros.rollouts import PolicyUnusable, RunnerError

# Modules with add_to(commands), in the order of --help.
_COMMANDS = (diagnosis, suspect, measures, compare, policy, benchmark)


def main(words: list[str] | None = None) -> int:
    """
    Run the command and return its exit code.

    It is 0, 2 for what the user gave wrong, 128 + n after signal n, 1 for all else.
    """
    arguments = _parser().parse_args(words)
    arguments.command_line = shlex.join(['robomd', *(sys.argv[1:] if words is None else words)])
    with _Stop() as stop:
        arguments.stopping = stop
        try:
            code = int(arguments.run(arguments))
        except (UserError, RunnerError) as error:
            code = 2 if isinstance(error, UserError | PolicyUnusable) else 1
            if not stop.wanted():
                print(f'robomd: {error}', file=sys.stderr)
        except BaseException:  # a KeyboardInterrupt, or what other packages make of it
            if not stop.wanted():
                raise
    if not stop.wanted():
        return code
    kept = getattr(arguments, 'keeps', False) * (
        '; what was measured is kept, and the same command goes on from here')
    print(f'\nrobomd: stopped{kept}.', file=sys.stderr)
    return 128 + stop.signal


class _Stop:
    """
    Takes SIGINT and SIGTERM as a wish to stop, until its context is left.

    Both raise KeyboardInterrupt, but not once gentle is set, which is for what asks wanted itself:
    an exception that comes anywhere, even within compiled code, would look like the policy's or
    the world's own. A second signal then kills, for a policy that does not return; the ledger
    stands that.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.gentle = False

    def wanted(self) -> bool:
        """Return whether a signal has come."""
        return self.signal != 0

    def __enter__(self) -> '_Stop':
        """Take the signals."""
        self._before = {number: signal.signal(number, self._take)
                        for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave them to whom they were left before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        self.signal = number
        if not self.gentle:
            raise KeyboardInterrupt
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='robomd',
        description='Find out under which changes of the scene a robot policy fails.')
    parser.add_argument('--version', action='version', version=f'robomd {__version__}')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    for module in _COMMANDS:
        module.add_to(commands)
    return parser
