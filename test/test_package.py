# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The package: what is installed, what it imports, and that its descriptions agree."""

import ast
import importlib.metadata
import os
from pathlib import Path
import re
import subprocess
import sys

from ament_index_python.packages import get_package_share_directory
from catkin_pkg.package import parse_package
import pytest
import robomd_ros

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = parse_package(ROOT / 'package.xml')  # raises InvalidPackage
ROS = {each.name for each in PACKAGE.exec_depends if not each.name.startswith('python3-')}
GENERATED = ('action', 'msg', 'srv')  # the nodes' messages: for ros and those after it
MODULES = sorted(path for path in (ROOT / 'robomd_ros').rglob('*.py')
                 if path.relative_to(ROOT).parts[1] not in GENERATED)
# Imports go from a room to itself and to those before it.
ROOMS = ('conditions', 'worlds', 'policies', 'rollouts', 'diagnosis', 'reports', 'ros', 'graph',
         'nodes', 'up', 'cli')
SHARED = ('errors', 'yaml_file', '__init__')  # imported by all, importing none of the rooms


def python(code, **environment):
    """Return what the code prints in a fresh process, whose environment is changed so."""
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, '-c', code], cwd='/', check=True, stdout=subprocess.PIPE, text=True,
        env={name: value for name, value in environment.items() if value is not None},
    ).stdout.strip()


def imports(path):
    """Return the dotted names that a Python file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: relative import'
            names.update(f'{node.module}.{alias.name}' for alias in node.names)
    return names


def foreign(paths):
    """Return the top-level modules the files import that are neither Python's nor ours."""
    tops = {name.partition('.')[0] for path in paths for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {'robomd_ros'}


def packages(paths):
    """Return, for each foreign module of the files, the names under which it can be required."""
    distributions = importlib.metadata.packages_distributions()
    return {module: {f'ros-jazzy-{module}'.replace('_', '-')} if module in ROS else
            {re.sub('[-_.]+', '-', name).lower() for name in distributions.get(module, ())}
            for module in foreign(paths)}


def requirements():
    """Return the names of what setup.py requires, and of what its extra robomimic does."""
    code = ast.parse((ROOT / 'setup.py').read_text())
    lists = {node.arg: node.value for node in ast.walk(code) if isinstance(node, ast.keyword)}
    lists |= {node.targets[0].id: node.value for node in ast.walk(code)
              if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    return [{re.match(r'[\w-]+', entry)[0] for entry in ast.literal_eval(lists[name])}
            for name in ('install_requires', 'ROBOMIMIC')]


@pytest.mark.parametrize('folder', ['config', 'launch'])
def test_share_holds(folder):
    share = Path(get_package_share_directory('robomd_ros'))
    files = [path for path in (ROOT / folder).rglob('*')
             if path.is_file() and '__pycache__' not in path.parts]
    assert files
    for path in files:
        installed = share / path.relative_to(ROOT)
        assert installed.is_file(), f'{installed} is missing: run make, or install again'
        assert installed.read_bytes() == path.read_bytes(), f'{installed} is old: run make'


def test_every_node_is_an_executable():
    executables = Path(get_package_share_directory('robomd_ros')).parents[1] / 'lib' / 'robomd_ros'
    nodes = {path.stem for path in (ROOT / 'robomd_ros' / 'nodes').glob('[a-z]*.py')
             if re.search(r'^def main\(', path.read_text(), re.MULTILINE)}
    assert nodes
    assert {path.name for path in executables.iterdir()} == nodes
    for path in executables.iterdir():
        assert os.access(path, os.X_OK)
        assert f'from robomd_ros.nodes.{path.name} import main' in path.read_text()


def test_data_stands_beside_the_modules():
    package = Path(robomd_ros.__file__).parent
    for folder in ('policies/builtin', 'reports/templates'):
        files = [path for path in (ROOT / 'robomd_ros' / folder).rglob('*') if path.is_file()]
        assert files
        for path in files:
            installed = package / path.relative_to(ROOT / 'robomd_ros')
            assert installed.read_bytes() == path.read_bytes()


def test_messages_are_light():
    loaded = python('import robomd_ros.action, robomd_ros.msg, robomd_ros.srv, sys;'
                    'print(*{name.partition(".")[0] for name in sys.modules})').split()
    assert 'robomd_ros' in loaded
    assert not {'cv2', 'gymnasium', 'matplotlib', 'mujoco', 'robosuite', 'torch'} & set(loaded)


def test_conditions_are_light():
    loaded = python('import robomd_ros.conditions, sys;'
                    'print(*{name.partition(".")[0] for name in sys.modules})').split()
    assert 'robomd_ros' in loaded
    assert not {'mujoco', 'numpy', 'rclpy', 'robosuite', 'torch'} & set(loaded)


def test_packages_are_found_without_a_sourced_workspace():
    code = 'import os, robomd_ros; print(os.environ["AMENT_PREFIX_PATH"])'
    path = str(Path(robomd_ros.__file__).parents[1])  # colcon's, found by PYTHONPATH
    assert python(code, AMENT_PREFIX_PATH=None, PYTHONPATH=path) == sys.prefix
    assert python(code, AMENT_PREFIX_PATH='/workspace', PYTHONPATH=path) == '/workspace'


def test_version_is_one():
    assert PACKAGE.version == robomd_ros.__version__ == importlib.metadata.version('robomd_ros')
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest[1] == PACKAGE.version


def test_licence_is_the_one_named():
    assert PACKAGE.licenses == ['Apache-2.0']
    assert 'Apache License\n' in (ROOT / PACKAGE.licenses[0].file).read_text()


def test_rooms_import_downwards_only():
    for path in MODULES:
        place = path.relative_to(ROOT / 'robomd_ros')
        room = place.parts[0].removesuffix('.py')
        allowed = {*SHARED, *ROOMS[:ROOMS.index(room) + 1 if room in ROOMS else 0]}
        if room in ROOMS[ROOMS.index('ros'):]:
            allowed.update(GENERATED)
        used = {name.split('.')[1] for name in imports(path)
                if name.startswith('robomd_ros.')} - {'__version__'}
        assert room in (*ROOMS, *SHARED), f'{room} is not in ROOMS'
        assert used <= allowed, f'{place} imports {used - allowed}'


def test_dependencies_are_declared():
    required, optional = requirements()
    for module, names in packages(MODULES).items():
        assert names & (required | optional), f'setup.py does not require {module}, {names}'


def test_no_dependency_is_idle():
    required, optional = requirements()
    unseen = {'ros-jazzy-rmw-fastrtps-cpp', 'ros-jazzy-rosidl-generator-py',  # loaded by name
              'ros-jazzy-sensor-msgs', 'ros-jazzy-std-msgs'}  # imported by generated code
    used = set().union(unseen, *packages(MODULES).values())
    assert required | optional <= used, required | optional - used


def test_package_xml_names_what_is_launched():
    assert foreign((ROOT / 'launch').rglob('*.py')) <= ROS
    plugins = set().union(*(re.findall(r"'(rqt_\w+)/", path.read_text())
                            for path in (ROOT / 'config').glob('*.perspective')))
    assert plugins
    assert plugins <= ROS


def test_what_rosdep_lacks_is_named_in_contributing():
    apt = {{'opencv': 'opencv-python', 'yaml': 'pyyaml'}.get(name, name)
           for name in (each.name.removeprefix('python3-') for each in PACKAGE.exec_depends)}
    page = (ROOT / 'CONTRIBUTING.md').read_text()
    command = re.search(r'    pip install (.+?)\n    \S', page, re.DOTALL)
    by_hand = set(re.findall(r'[a-z][a-z0-9-]+', command[1]))
    required, _ = requirements()
    assert {name for name in required if not name.startswith('ros-jazzy-')} - apt <= by_hand
