# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Perturbations as edits of a compiled MuJoCo model, undone exactly."""

from collections.abc import Callable
from fnmatch import fnmatchcase
import os
from typing import Any

import numpy as np
from robomd_ros.conditions import Condition, Perturbation
from robomd_ros.conditions.tasks import Task
from robomd_ros.errors import UserError
from scipy.spatial.transform import Rotation

# Where a light that is moved points to: the middle of the table, m, world frame.
LIT_POINT = np.array([0.0, 0.0, 0.8])
# Properties that build on each other: a texture is tinted by a colour, brightness dims a coloured
# light, and a mass that is set outdoes what follows from the size.
_ORDER = ('color', 'texture', 'brightness', 'size', 'mass')
# Never edited, and most of a model's bytes.
_FIXED = ('mesh', 'tex_data', 'hfield', 'skin', 'name', 'paths', 'text', 'numeric', 'tuple')


class SceneEditor:
    """
    Sets a compiled model to a condition and back, bit for bit.

    raised: body -> how much higher its centre rests than nominally, m, since it was resized.
    changed_textures: textures whose pixels differ from what a renderer has uploaded.
    """

    def __init__(self, model: Any, task: Task) -> None:
        self.raised: dict[int, float] = {}
        self.changed_textures: set[int] = set()
        self._model, self._task = model, task
        arrays = (getattr(model, name) for name in dir(model)
                  if not name.startswith(('_', *_FIXED)))
        self._nominal = [(array, array.copy())
                         for array in arrays if isinstance(array, np.ndarray)]
        self._headlight = {name: getattr(model.vis.headlight, name).copy()
                           for name in ('ambient', 'diffuse')}
        self._nominal_materials = model.geom_matid.copy()
        self._statistics = {name: np.copy(getattr(model.stat, name)) for name in (
            'center', 'extent', 'meaninertia', 'meanmass', 'meansize')}
        self._pixels: dict[int, np.ndarray] = {}  # texture -> its nominal pixels, once edited

    def apply(self, condition: Condition) -> None:
        """
        Set the model to the condition, from whatever it was set to before.

        Raises UserError naming the perturbation that the model cannot be set to; the model is then
        nominal.
        """
        self._restore()
        try:
            for perturbation in sorted(condition.perturbations, key=self._turn):
                self._edit(perturbation)
        except UserError:
            self._restore()
            raise
        if {p.property for p in condition.perturbations} & {'size', 'mass'}:
            import mujoco
            mujoco.mj_setConst(self._model, mujoco.MjData(self._model))

    def _restore(self) -> None:
        for array, nominal in self._nominal:
            array[...] = nominal
        for name, colour in self._headlight.items():
            getattr(self._model.vis.headlight, name)[:] = colour
        for name, value in self._statistics.items():
            setattr(self._model.stat, name, value)
        for texture, pixels in self._pixels.items():
            self._texture_pixels(texture)[:] = pixels
            self.changed_textures.add(texture)
        self._pixels.clear()
        self.raised.clear()

    def _edit(self, perturbation: Perturbation) -> None:
        part, value = perturbation.part, perturbation.value
        edits: dict[str, Callable[[Any], None]]
        if part == 'light':
            if perturbation.property == 'position' and np.array_equal(value, LIT_POINT):
                raise self._refusal(perturbation, 'the light points there; move it elsewhere')
            edits = {'color': self._light_color, 'position': self._light_position,
                     'brightness': self._light_brightness}
            edits[perturbation.property](value)
        elif part.partition(':')[0] == 'camera':
            name = part.partition(':')[2] or self._task.camera
            camera = self._find(perturbation, 'camera', name)
            self._camera(camera, perturbation.property, value)
        elif perturbation.property == 'mass':
            self._mass(perturbation)
        else:
            geoms = self._geoms(perturbation)
            getattr(self, f'_{perturbation.property}')(perturbation, geoms)

    # What a part is made of

    def _turn(self, perturbation: Perturbation) -> tuple[int, int]:
        """
        Return when the perturbation is applied among others, so that they add up.

        The larger part comes first: a red robot with a green gripper keeps its green gripper.
        """
        named = perturbation.part in self._task.parts
        return (_ORDER.index(perturbation.property) if perturbation.property in _ORDER else -1,
                -len(self._geoms(perturbation)) if named else 0)

    def _geoms(self, perturbation: Perturbation) -> np.ndarray:
        """Return the ids of the part's geoms."""
        model, part = self._model, perturbation.part
        kind, _, name = part.partition(':')
        if kind == 'geom' and name:
            return np.array([self._find(perturbation, 'geom', name)])
        if kind == 'body' and name:
            geoms = np.flatnonzero(model.geom_bodyid == self._find(perturbation, 'body', name))
        else:
            patterns = self._task.parts[part]
            geoms = np.array([g for g in range(model.ngeom) if any(
                fnmatchcase(model.geom(g).name, pattern) for pattern in patterns)])
        if not len(geoms):
            raise self._refusal(perturbation, f'{part} has no geoms')
        return geoms

    def _find(self, perturbation: Perturbation, kind: str, name: str) -> int:
        try:
            return int(getattr(self._model, kind)(name).id)
        except KeyError:
            raise self._refusal(perturbation, f'the model has no {kind} named {name!r}') from None

    @staticmethod
    def _refusal(perturbation: Perturbation, why: str) -> UserError:
        return UserError(
            f'The scene cannot be set to {perturbation.name} ({perturbation.slot}): {why}.')

    def _touching(self, geoms: np.ndarray) -> np.ndarray:
        return geoms[(self._model.geom_contype[geoms] | self._model.geom_conaffinity[geoms]) != 0]

    # The edits, one a property

    def _color(self, perturbation: Perturbation, geoms: np.ndarray) -> None:
        # A material's texture would tint the colour.
        self._model.geom_matid[geoms] = -1
        self._model.geom_rgba[geoms] = (*perturbation.value, 1.0)  # type: ignore[misc]

    def _friction(self, perturbation: Perturbation, geoms: np.ndarray) -> None:
        touching = self._touching(geoms)
        if not len(touching):
            raise self._refusal(perturbation, f'nothing can touch {perturbation.part}')
        self._model.geom_friction[touching] = perturbation.value

    def _size(self, perturbation: Perturbation, geoms: np.ndarray) -> None:
        import mujoco

        model = self._model
        if (model.geom_type[geoms] != mujoco.mjtGeom.mjGEOM_BOX).any():
            raise self._refusal(
                perturbation, f'only boxes can be resized, and {perturbation.part} is not one')
        size, nominal = np.array(perturbation.value), model.geom_size[geoms[0]].copy()
        model.geom_size[geoms] = size
        model.geom_aabb[geoms, 3:] = size
        model.geom_rbound[geoms] = np.linalg.norm(size)
        for body in set(model.geom_bodyid[geoms].tolist()):
            if model.body_weldid[body] == 0:
                # What stands, such as a table, keeps its top where it is.
                model.geom_pos[geoms[model.geom_bodyid[geoms] == body], 2] += nominal[2] - size[2]
            else:
                self._weigh(body, model.body_mass[body] * np.prod(size / nominal), box=size)
                self.raised[body] = size[2] - nominal[2]
            # The bounds of the search for contacts may be wide, never narrow.
            nodes = slice(
                model.body_bvhadr[body], model.body_bvhadr[body] + model.body_bvhnum[body])
            model.bvh_aabb[nodes, 3:] += np.linalg.norm(size) + abs(nominal[2] - size[2])
        if perturbation.part == 'table':
            self._table_legs(size)

    def _table_legs(self, size: np.ndarray) -> None:
        """Put the legs where robosuite's TableArena puts them under a table of this size."""
        model = self._model
        for leg, signs in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1)), start=1):
            geom = model.geom(f'table_leg{leg}_visual').id
            model.geom_pos[geom, :2] = np.where(size[:2] > 0.2, signs * (size[:2] - 0.1), 0.0)

    def _mass(self, perturbation: Perturbation) -> None:
        kind, _, name = perturbation.part.partition(':')
        name = name if kind == 'body' else self._task.bodies.get(perturbation.part, '')
        if not name:
            raise self._refusal(
                perturbation,
                f'{perturbation.part} has no mass of its own; name a body, body:NAME')
        body = self._find(perturbation, 'body', name)
        if not self._model.body_mass[body]:
            raise self._refusal(perturbation, f'the body {name} has no mass; name one that has')
        self._weigh(body, float(perturbation.value))  # type: ignore[arg-type]

    def _weigh(self, body: int, mass: float, box: np.ndarray | None = None) -> None:
        """
        Give a body a mass, kg.

        Its inertia is scaled with it, or is that of a box of these half extents, m.
        """
        model = self._model
        if box is None:
            model.body_inertia[body] *= mass / model.body_mass[body]
        else:
            squares = box ** 2
            model.body_inertia[body] = mass / 3 * (squares.sum() - squares)
        model.body_mass[body] = mass

    def _texture(self, perturbation: Perturbation, geoms: np.ndarray) -> None:
        import cv2
        import robosuite

        model = self._model
        nominal = self._nominal_materials[geoms]
        materials = set(nominal.tolist()) - {-1}
        textures = {texture for material in materials
                    for texture in model.mat_texid[material].tolist()} - {-1}
        if not textures:
            raise self._refusal(perturbation, f'{perturbation.part} has no texture to replace')
        path = str(perturbation.value)
        if not os.path.isabs(path):
            path = os.path.join(robosuite.models.assets_root, 'textures', f'{path}.png')
        image = cv2.imread(path, cv2.IMREAD_COLOR) if os.path.isfile(path) else None
        if image is None:
            raise self._refusal(perturbation, f'no picture can be read from {path}')
        model.geom_matid[geoms] = nominal  # a colour of the part tints the texture
        for texture in textures:
            pixels = self._texture_pixels(texture)
            self._pixels.setdefault(texture, pixels.copy())
            height, width, channels = pixels.shape
            if channels != 3:
                raise self._refusal(
                    perturbation, f'the texture of {perturbation.part} is not a colour picture')
            # A cube's six faces lie one below the other.
            faces = height // width if height % width == 0 else 1
            face = cv2.resize(image, (width, height // faces), interpolation=cv2.INTER_AREA)
            pixels[:] = np.tile(cv2.cvtColor(face, cv2.COLOR_BGR2RGB), (faces, 1, 1))
            self.changed_textures.add(texture)

    def _texture_pixels(self, texture: int) -> np.ndarray:
        """Return a view of a texture's pixels, (height, width, channels) uint8."""
        model = self._model
        shape = (model.tex_height[texture], model.tex_width[texture], model.tex_nchannel[texture])
        return model.tex_data[model.tex_adr[texture]:][:np.prod(shape)].reshape(shape)

    def _light_color(self, value: tuple[float, ...]) -> None:
        self._model.light_diffuse[:] = value

    def _light_position(self, value: tuple[float, ...]) -> None:
        self._model.light_pos[:] = value
        towards = LIT_POINT - value
        self._model.light_dir[:] = towards / np.linalg.norm(towards)

    def _light_brightness(self, value: float) -> None:
        self._model.light_diffuse[:] *= value
        for name in self._headlight:
            getattr(self._model.vis.headlight, name)[:] *= value

    def _camera(self, camera: int, name: str, value: Any) -> None:
        model = self._model
        if name == 'position':
            model.cam_pos[camera] += value
        elif name == 'fov':
            model.cam_fovy[camera] = value
        else:
            roll, pitch, yaw = value
            turn = Rotation.from_euler('YXZ', [yaw, pitch, roll], degrees=True)
            nominal = Rotation.from_quat(model.cam_quat[camera], scalar_first=True)
            model.cam_quat[camera] = (nominal * turn).as_quat(scalar_first=True)
