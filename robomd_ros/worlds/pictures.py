# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Cameras of the simulation: robosuite's own pictures, or fast ones."""

import atexit
from collections.abc import Iterable
from typing import Any, Protocol
import weakref

import numpy as np
from robomd_ros.worlds.simulation import VISUAL_GROUP

FIDELITIES = ('fast', 'full')

_OPEN: 'weakref.WeakSet[Camera]' = weakref.WeakSet()


class Camera(Protocol):
    """Draws a simulation. Belongs to the thread that made it."""

    def draw(self, camera: str, height: int, width: int) -> np.ndarray:
        """Return what a camera of that name sees, (height, width, 3) uint8 RGB, upright."""
        ...

    def upload(self, textures: Iterable[int]) -> None:
        """Take over the pixels of the textures, which have changed."""
        ...

    def close(self) -> None:
        """Free the OpenGL contexts."""
        ...


class FullPictures:
    """robosuite's own pictures: shadows, reflections, 4-fold multi-sampling, all of the meshes."""

    def __init__(self, environment: Any) -> None:
        self._sim = environment.sim

    def draw(self, camera: str, height: int, width: int) -> np.ndarray:
        """Return what a camera of that name sees, (height, width, 3) uint8 RGB, upright."""
        # robosuite takes it for granted that no other context of this thread is current.
        self._sim._render_context_offscreen.gl_ctx.make_current()
        return np.ascontiguousarray(
            self._sim.render(width=width, height=height, camera_name=camera)[::-1])

    def upload(self, textures: Iterable[int]) -> None:
        """Take over the pixels of the textures, which have changed."""
        for texture in textures:
            self._sim._render_context_offscreen.upload_texture(texture)

    def close(self) -> None:
        """Leave the OpenGL context to robosuite, whose it is."""


class FastPictures:
    """Pictures without shadows, reflections and multi-sampling."""

    def __init__(self, environment: Any) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model, self._data = environment.sim.model._model, environment.sim.data._data
        self._visible = mujoco.MjvOption()
        self._visible.geomgroup[:] = 0
        self._visible.geomgroup[VISUAL_GROUP] = 1
        self._renderers: dict[tuple[int, int], Any] = {}

    def draw(self, camera: str, height: int, width: int) -> np.ndarray:
        """Return what a camera of that name sees, (height, width, 3) uint8 RGB, upright."""
        renderer = self._renderer(height, width)
        renderer.update_scene(self._data, camera=camera, scene_option=self._visible)
        flags = self._mujoco.mjtRndFlag
        for flag in (flags.mjRND_REFLECTION, flags.mjRND_SHADOW):
            renderer.scene.flags[flag] = 0
        return renderer.render()

    def upload(self, textures: Iterable[int]) -> None:
        """Take over the pixels of the textures, which have changed."""
        for renderer in self._renderers.values():
            renderer._gl_context.make_current()
            for texture in textures:
                self._mujoco.mjr_uploadTexture(self._model, renderer._mjr_context, texture)

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _renderer(self, height: int, width: int) -> Any:
        size = height, width
        if size not in self._renderers:
            frame, quality = self._model.vis.global_, self._model.vis.quality
            before = frame.offheight, frame.offwidth, quality.offsamples
            frame.offheight, frame.offwidth, quality.offsamples = height, width, 0
            self._renderers[size] = self._mujoco.Renderer(self._model, height, width)
            # They are read when the renderer is made; the model itself stays as it was.
            frame.offheight, frame.offwidth, quality.offsamples = before
        return self._renderers[size]


def open_camera(environment: Any, fidelity: str) -> Camera:
    """Return what draws an environment."""
    camera = FullPictures(environment) if fidelity == 'full' else FastPictures(environment)
    camera.draw(environment.sim.model.camera_names[0], 8, 8)
    _OPEN.add(camera)
    # Registered last it runs first, before mujoco and robosuite each end EGL under our contexts.
    atexit.unregister(_close_all)
    atexit.register(_close_all)
    return camera


def _close_all() -> None:
    for camera in list(_OPEN):
        camera.close()
