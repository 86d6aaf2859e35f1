# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Style, types and ROS 2's own lint rules; pyproject.toml makes ruff agree with the latter."""

from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[1]
GENERATED = [ROOT / 'robomd_ros' / kind for kind in ('action', 'msg', 'srv')]
FILES = sorted(
    path for path in [ROOT / 'setup.py', *(
        path for room in ('benchmarks', 'launch', 'robomd_ros', 'test')
        for path in (ROOT / room).rglob('*.py'))]
    if not any(path.is_relative_to(folder) for folder in GENERATED))


def check(folder, *command):
    """Run a Python module as a command in that folder; fail with its output if it finds fault."""
    done = subprocess.run([sys.executable, '-m', *map(str, command)], cwd=folder,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_ruff():
    check(ROOT, 'ruff', 'check', '--no-cache', '--output-format', 'concise')


def test_mypy():
    check(ROOT, 'mypy')


def test_ament_flake8(tmp_path):
    check(tmp_path, 'ament_flake8.main', *FILES)  # it searches all of the folder it is started in


def test_ament_pep257(tmp_path):
    check(tmp_path, 'ament_pep257.main', *FILES)
