# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Slots: which properties the parts of a scene have, and which values these take."""

from dataclasses import dataclass
import reprlib
from typing import Any

from robomd_ros.conditions.model import Value
from robomd_ros.conditions.tasks import Task


@dataclass(frozen=True)
class Property:
    """
    What can be changed about a part, and what to.

    meaning: what the value says, in which frame.
    components: what the numbers of a value are, in order: one for a plain number, none for text.
    low, high: the least and the greatest value of each number, both allowed.
    unit: of each number; empty for a pure number.
    """

    meaning: str
    components: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    unit: str = ''

    @property
    def wanted(self) -> str:
        """Return the values it takes, in English."""
        limits = f'from {self.low:g} to {self.high:g} {self.unit}'.rstrip()
        if not self.components:
            return 'a non-empty text'
        if len(self.components) == 1:
            return f'a number {limits}'
        names = ', '.join(self.components)
        return f'a list [{names}] of {len(self.components)} numbers, each {limits}'

    def read(self, value: object) -> Value:
        """
        Return the value as floats, or as the text it is.

        Raises ValueError, its message a clause for UserError, for any value it does not take.
        """
        numbers = [value] if len(self.components) == 1 else value
        if not self.components:
            if isinstance(value, str) and value and value.isprintable():
                return value
        elif (isinstance(numbers, list | tuple) and len(numbers) == len(self.components)
                and all(map(self._takes, numbers))):
            floats = tuple(map(float, numbers))
            return floats if len(floats) > 1 else floats[0]
        given = 'empty' if value is None else reprlib.repr(value)
        kind = 'the text ' if isinstance(value, str) else ''
        raise ValueError(f'must be {self.wanted}, not {kind}{given}')

    def _takes(self, number: Any) -> bool:
        # bool is an int to Python; NaN lies in no range.
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        return is_number and self.low <= number <= self.high


_RGB = ('red', 'green', 'blue')
_XYZ = ('x', 'y', 'z')

# The kinds of parts, and property -> what it takes, for each. 'object' are the named parts of a
# task, body:NAME and geom:NAME; 'camera' are camera (the task's own) and camera:NAME.
PROPERTIES: dict[str, dict[str, Property]] = {
    'object': {
        'color': Property('colour of its surface; replaces its texture', _RGB, 0, 1),
        'size': Property(
            'half its extent along each of its own axes, as MuJoCo gives the size of a box; what '
            'can be touched, mass and inertia follow', _XYZ, 0.001, 2, 'm'),
        'texture': Property(
            "picture on its surface: the name of one in robosuite's assets/textures without .png, "
            'or the path of a PNG file, relative to the catalogue'),
        'friction': Property(
            'coefficients of friction as MuJoCo gives them: sliding (a pure number), spinning '
            'and rolling (both in m)', ('slide', 'spin', 'roll'), 0, 5),
        'mass': Property('mass; inertia follows', ('mass',), 0.001, 100, 'kg'),
    },
    'light': {
        'color': Property('colour of its diffuse light', _RGB, 0, 1),
        'position': Property('where it is in the world frame', _XYZ, -10, 10, 'm'),
        'brightness': Property(
            "factor on the nominal light's diffuse colour and on the headlight's",
            ('factor',), 0, 5),
    },
    'camera': {
        'position': Property('offset from nominal in the world frame', _XYZ, -0.5, 0.5, 'm'),
        'rotation': Property(
            "turn from nominal about the camera's own axes: yaw about up (positive: to the left), "
            'then pitch about right (positive: up), then roll about its line of sight (positive: '
            'the picture turns clockwise)', ('roll', 'pitch', 'yaw'), -45, 45, 'deg'),
        'fov': Property('vertical field of view', ('angle',), 10, 120, 'deg'),
    },
}


def find_property(slot: str, task: Task) -> Property:
    """
    Return what the slot of that task changes.

    Raises ValueError, its message a clause for UserError, if the task has no such slot. Whether a
    body, geom or camera named in it exists, only the world knows.
    """
    part, _, name = slot.rpartition('.')
    unknown = f'unknown slot {slot!r}'
    if not part or not slot.isprintable():
        raise ValueError(f'{unknown}: a slot is part.property, for example cube.color')
    kind = _kind(part, task)
    if kind is None:
        parts = ', '.join((*task.parts, 'light', 'camera'))
        raise ValueError(f'{unknown}: the parts of the task {task.name} are {parts}, and '
                         'body:NAME, geom:NAME and camera:NAME for others of the MuJoCo model')
    if part == f'camera:{task.camera}':
        raise ValueError(f'{unknown}: {task.camera} is the camera of the task {task.name}, '
                         f'so write camera.{name}')
    if name not in PROPERTIES[kind]:
        raise ValueError(f'{unknown}: {part} has only ' + ', '.join(PROPERTIES[kind]))
    return PROPERTIES[kind][name]


def _kind(part: str, task: Task) -> str | None:
    if part in task.parts:
        return 'object'
    if part in ('light', 'camera'):
        return part
    prefix, _, name = part.partition(':')
    return {'body': 'object', 'geom': 'object', 'camera': 'camera'}.get(prefix) if name else None
