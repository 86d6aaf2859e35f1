# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Perturbation and Condition: one named change of the scene, and the changes in force together."""

from dataclasses import dataclass

Value = float | str | tuple[float, ...]


@dataclass(frozen=True)
class Perturbation:
    """
    One named change of the scene.

    name: unique within its catalogue, lower-case letters, digits and underscores.
    slot: what is changed, ``part.property``, e.g. ``table.color``.
    value: what it is changed to; meaning, unit and range follow from the kind of part and the
    property, see ``slots.PROPERTIES``.
    sentence: the change in English.
    """

    name: str
    slot: str
    value: Value
    sentence: str

    @property
    def part(self) -> str:
        """Return the named part of the scene that is changed."""
        return self.slot.rpartition('.')[0]

    @property
    def property(self) -> str:  # noqa: A003, what it is called wherever slots are spoken of
        """Return what is changed about the part, a key of ``slots.PROPERTIES[kind of part]``."""
        return self.slot.rpartition('.')[2]


@dataclass(frozen=True)
class Condition:
    """
    The perturbations in force together, at most one a slot, ordered by slot.

    Empty, it is nominal.
    """

    perturbations: tuple[Perturbation, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.perturbations, key=lambda p: p.slot))
        slots = [p.slot for p in ordered]
        if len(set(slots)) < len(slots):
            raise ValueError(f'two perturbations of one slot: {[p.name for p in ordered]}')
        object.__setattr__(self, 'perturbations', ordered)

    def __len__(self) -> int:
        return len(self.perturbations)

    def with_perturbation(self, perturbation: Perturbation) -> 'Condition':
        """Return a_old + a: the same slot is overwritten, other slots add up (Algorithm 1)."""
        others = (p for p in self.perturbations if p.slot != perturbation.slot)
        return Condition((*others, perturbation))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the perturbations' names, ordered by slot."""
        return tuple(p.name for p in self.perturbations)

    @property
    def label(self) -> str:
        """Return a name for people and files: ``nominal``, or the names joined by ``+``."""
        return '+'.join(self.names) or 'nominal'


NOMINAL = Condition()
