# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Starts the graph, and stops all of it, on machines without ROS 2's launch."""

from collections.abc import Mapping
import ctypes
import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from robomd_ros.errors import UserError
from robomd_ros.graph import CLIENT, describe, Process, read_arguments
from robomd_ros.ros.shared_memory import FOLDER, port_file, remove_dead

# Shared memory alone: pictures of any size fit, and nothing leaves the machine.
_TRANSPORTS = 'SHM?max_msg_size=1MB&sockets_size=2MB'
_GOODBYE = 15.0   # s the client gets to cancel the diagnosis and say how to go on
_PATIENCE = 5.0   # s from SIGINT to SIGTERM, and from there to SIGKILL, as ROS 2's launch has it
_LOOK = 0.1       # s between two looks at who is still there
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def run(arguments: Mapping[str, object]) -> int:
    """
    Diagnose a policy with the whole graph and return the exit code.

    arguments: values, or their texts, of graph.ARGUMENTS; the others take their defaults. The code
    is the client's: 0 when the diagnosis is done, 2 for what the user gave wrong, 1 for all else.
    Raises UserError, before anything is started, for what can be seen to be wrong at once.
    """
    processes = describe(read_arguments(arguments))
    commands = [_command(process) for process in processes]
    remove_dead()  # a graph takes 26 MB, of which a kill leaves all; containers have 64 MB
    environment = _environment()
    starter = _Starter()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, starter.interrupt) for number in signals]
    try:
        starter.start(processes, commands, environment)
        return starter.wait()
    finally:
        starter.stop()
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _command(process: Process) -> list[str]:
    if process.package == 'robomd_ros':
        # -P: the package that is installed, not an unbuilt checkout in the current folder.
        words = [sys.executable, '-P', '-m', f'robomd_ros.nodes.{process.executable}']
    else:
        try:
            words = [os.path.join(get_package_prefix(process.package), 'lib', process.package,
                                  process.executable)]
        except PackageNotFoundError:
            raise UserError(f'{process.name} is not installed here; leave it out, or install '
                            f'ros-jazzy-{process.package.replace("_", "-")}.') from None
    share = get_package_share_directory('robomd_ros')
    words += [word.format(share=share) for word in process.arguments]
    words += ['--ros-args', '-r', f'__node:={process.name}']
    for name, value in process.parameters.items():
        # JSON is YAML, and a text in it stays a text.
        words += ['-p', f'{name}:={json.dumps(value, ensure_ascii=False)}']
    for source, target in process.remappings:
        words += ['-r', f'{source}:={target}']
    return words


def _environment() -> dict[str, str]:
    """Return the environment, with a ROS domain of the graph's own where the user has set none."""
    environment = {
        'ROS_DOMAIN_ID': str(_unused_domain()),
        'FASTDDS_BUILTIN_TRANSPORTS': _TRANSPORTS,
        'RCUTILS_CONSOLE_OUTPUT_FORMAT': '{severity}: {message}',
        **os.environ}
    look_in = ' '.join(f"{name}='{environment[name]}'" for name in (
        'ROS_DOMAIN_ID', 'FASTDDS_BUILTIN_TRANSPORTS'))
    print(f'To look in with other ROS 2 programs: export {look_in}', file=sys.stderr, flush=True)
    return environment


def _unused_domain() -> int:
    """Return a ROS domain in which nobody on this machine uses shared memory, if there is one."""
    domains = range(1, 102)  # the ones that ROS 2 says are safe on Linux
    free = [domain for domain in domains if not (FOLDER / port_file(domain)).exists()]
    return random.choice(free or domains)


def _tie_to_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent is gone, however it went."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _Child:
    """A process of the graph that was started."""

    def __init__(
            self, process: Process, command: list[str], environment: dict[str, str]) -> None:
        self.name = process.name
        self.optional = process.optional
        self.is_client = process.executable == CLIENT
        self.popen = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
            stdout=None if self.is_client else subprocess.PIPE,
            stderr=None if self.is_client else subprocess.STDOUT,
            preexec_fn=functools.partial(_tie_to_parent, os.getpid()))

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    @property
    def exit_code(self) -> int:
        """0, 2 for what the user gave wrong, or 1 for any other end."""
        return self.popen.returncode if self.popen.returncode in (0, 2) else 1

    @property
    def end(self) -> str:
        """How it ended, in English."""
        code = self.popen.returncode
        return f'exited with code {code}' if code >= 0 else f'died of {signal.Signals(-code).name}'

    def pass_on_output(self) -> None:
        """Print what it says, line by line, until it ends."""
        # On a terminal the client's progress bar stands on the last line; it comes back by itself.
        clear = '\r\x1b[K' if sys.stderr.isatty() else ''
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            text = line.decode(errors='replace').rstrip()
            print(f'{clear}[{self.name}] {text}', file=sys.stderr, flush=True)


class _Starter:
    """Starts the processes, watches them and stops them."""

    def __init__(self) -> None:
        self._children: list[_Child] = []
        self._threads: list[threading.Thread] = []
        self._interrupted = False

    def interrupt(self, number: int, frame: object) -> None:
        """Take a signal that asks for the end."""
        self._interrupted = True

    def start(self, processes: list[Process], commands: list[list[str]],
              environment: dict[str, str]) -> None:
        """Start them all; the client has the terminal, the output of the others is passed on."""
        for process, command in zip(processes, commands, strict=True):
            self._children.append(_Child(process, command, environment))
        for child in self._children:  # threads come last, since processes are forked off
            if not child.is_client:
                self._threads.append(threading.Thread(target=child.pass_on_output, daemon=True))
                self._threads[-1].start()

    def wait(self) -> int:
        """Wait for the client, or for whatever else ends the graph, and return the exit code."""
        client = self._children[-1]
        while client.running and not self._interrupted:
            dead = [c for c in self._children if not (c is client or c.optional or c.running)]
            if dead:
                print(f'{dead[0].name} {dead[0].end}, so the diagnosis stops.',
                      file=sys.stderr, flush=True)
                _end([client], (signal.SIGINT, _GOODBYE))
                return dead[0].exit_code or 1
            time.sleep(_LOOK)
        _end([client], (signal.SIGINT, _GOODBYE))  # while those it talks to are still there
        return client.exit_code

    def stop(self) -> None:
        """Stop all that still run, and wait until they are gone."""
        _end(self._children, (signal.SIGINT, _PATIENCE), (signal.SIGTERM, _PATIENCE),
             (signal.SIGKILL, _PATIENCE))
        for thread in self._threads:
            thread.join(1.0)
        remove_dead()  # what those that had to be killed leave


def _end(children: list[_Child], *steps: tuple[signal.Signals, float]) -> None:
    """Send each signal to those that still run, and wait for so many seconds for them to end."""
    for number, patience in steps:
        for child in children:
            if child.running:
                child.popen.send_signal(number)
        limit = time.monotonic() + patience
        while any(child.running for child in children) and time.monotonic() < limit:
            time.sleep(_LOOK / 2)
