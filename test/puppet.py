# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A policy that does what a file beside it says, and the processes of a graph that runs it."""

from contextlib import contextmanager
from pathlib import Path
import shutil
import signal
import subprocess
import time

import numpy as np
from robomd_ros.graph import describe, read_arguments
from robomd_ros.policies import PolicyNeeds
from robomd_ros.up import _command

MODE = Path(__file__).with_name('puppet.mode')


class Puppet:
    """Stands still; or, by its mode, does so slowly, or answers what no policy should."""

    needs = PolicyNeeds(state=('robot0_eef_pos',), fidelity='fast')
    resets = 0

    def reset(self, instruction):
        self.mode = MODE.read_text() if MODE.exists() else ''
        self.resets += 1

    def act(self, observation):
        if self.mode == 'nan later' and self.resets > 3:  # the loader has two
            return np.full(7, np.nan)
        if self.mode == 'slow':
            time.sleep(0.02)
        if self.mode == 'raise':
            raise RuntimeError('the strings are cut')
        return {'nan': np.full(7, np.nan), 'shape': np.zeros(6)}.get(self.mode, np.zeros(7))


def make(task):
    return Puppet()


def arguments(folder, **given):
    """Return graph arguments for a puppet of its own, which lives in the folder."""
    shutil.copy(__file__, folder)
    return {'policy': f'python:{folder / "puppet.py"}:make', 'searcher': 'sweep', 'horizon': 5,
            'executors': 1, 'out': folder / 'out', **given}


def say(folder, mode):
    """Set the mode of the puppet that lives in the folder, from its next rollout on."""
    (folder / 'puppet.mode').write_text(mode)


@contextmanager
def running(given, without=()):
    """Run the processes of a graph, by name; what they say goes to logs beside the policy."""
    processes = {}
    folder = given['out'].parent
    try:
        for process in describe(read_arguments(given)):
            if process.name not in without:
                with open(folder / f'{process.name}.log', 'w') as log:
                    processes[process.name] = subprocess.Popen(
                        _command(process), stdout=log, stderr=log)
        yield processes
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
