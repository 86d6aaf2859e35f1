# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Which OpenGL back end draws the pictures.

Call choose_renderer() before mujoco is imported anywhere.
"""

import ctypes.util
import importlib
import importlib.util
import os

from robomd_ros.errors import UserError

BACK_ENDS = {'egl': 'EGL', 'osmesa': 'OSMesa'}


def choose_renderer() -> str:
    """
    Return the OpenGL back end, 'egl' or 'osmesa', having set MUJOCO_GL to it if it was not set.

    mujoco and robosuite read MUJOCO_GL once, when they are imported. Raises UserError if there is
    no library for it.
    """
    wanted = os.environ.get('MUJOCO_GL')
    if wanted and wanted not in BACK_ENDS:
        raise UserError(f'MUJOCO_GL is {wanted!r}; scenes are drawn off screen, so set it to egl '
                        'or osmesa, or unset it.')
    for name in [wanted] if wanted else BACK_ENDS:
        if ctypes.util.find_library(BACK_ENDS[name]):
            os.environ['MUJOCO_GL'] = name
            return name
    raise UserError(
        f'No OpenGL library to draw scenes with ({wanted or "egl or osmesa"}): '
        'run "apt-get install -y libegl1 libgl1 libgles2 libosmesa6".')


def check_renderer(name: str) -> None:
    """Raise UserError if the OpenGL back end of that name cannot draw on this machine."""
    # Mesa and Triton each bring an LLVM: if Mesa's comes first, the process dies when torch's
    # optimisers load Triton.
    if importlib.util.find_spec('triton'):
        importlib.import_module('triton')
    try:
        import mujoco

        context = mujoco.GLContext(8, 8)
        context.make_current()
        context.free()
    except Exception as error:  # each back end fails in its own way, some with no message at all
        other = 'osmesa' if name == 'egl' else 'egl'
        raise UserError(
            f'The OpenGL back end {name} cannot draw here ({type(error).__name__}: {error}): set '
            f'MUJOCO_GL to {other}, or install libegl1, libgl1, libgles2 and libosmesa6.'
        ) from error
