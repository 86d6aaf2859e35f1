# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Catalogue: the candidate perturbations of one task, and the YAML file they are read from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import re
import reprlib

from robomd_ros.conditions.model import Condition, Perturbation, Value
from robomd_ros.conditions.slots import find_property
from robomd_ros.conditions.tasks import get_task, Task
from robomd_ros.errors import UserError
from robomd_ros.yaml_file import fault, fields, parse_yaml, plain
import yaml

_NAME = re.compile('[a-z][a-z0-9_]*')
_MAX_SENTENCE = 200  # characters; CLIP's text encoder reads no more than 77 tokens


@dataclass(frozen=True)
class Catalogue:
    """
    The candidate perturbations of one task, in the file's order; the paper's C.

    task: its name. path: of the file, absolute. digest: SHA-256 of the file's bytes and of those
    of the pictures it names, hex. lines: where each perturbation stands in the file, from 1.
    """

    task: str
    path: str
    digest: str
    perturbations: tuple[Perturbation, ...]
    lines: tuple[int, ...] = ()

    def place(self, name: str) -> str:
        """Return where the perturbation of that name stands: file and line."""
        return f'{self.path}, line {self.lines[self.names.index(name)]}'

    def __len__(self) -> int:
        return len(self.perturbations)

    def __iter__(self) -> Iterator[Perturbation]:
        return iter(self.perturbations)

    def __getitem__(self, name: str) -> Perturbation:
        for perturbation in self.perturbations:
            if perturbation.name == name:
                return perturbation
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the perturbations' names, in the file's order."""
        return tuple(p.name for p in self.perturbations)

    def condition(self, names: Iterable[str]) -> Condition:
        """
        Return the condition in which the named perturbations are in force together.

        Raises UserError for a name that is not in the catalogue and for two of one slot.
        """
        condition = Condition()
        for name in names:
            if name not in self.names:
                raise UserError(f'{self.path} has no perturbation {name!r}; it has: '
                                f'{", ".join(self.names)}.')
            for other in condition.perturbations:
                if other.slot == self[name].slot:
                    raise UserError(f'{other.name} and {name} both change {other.slot}, so only '
                                    'one of them can be in force; leave one out.')
            condition = condition.with_perturbation(self[name])
        return condition


def default_catalogue(task: str) -> Path:
    """
    Return the path of the catalogue that comes with the package for the task.

    Raises UserError, naming the known tasks, if there is no such task.
    """
    from ament_index_python.packages import get_package_share_directory

    name = get_task(task).name
    return Path(get_package_share_directory('robomd_ros'), 'config', 'catalogues', f'{name}.yaml')


def load_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """
    Read a catalogue file; its format is in docs/catalogues.md.

    Raises UserError, naming the file and where it can the line, for any fault in the file.
    """
    path = Path(path)
    data = _read(path, 'catalogue', 'a YAML file')
    top = fields(parse_yaml(path, data, 'the catalogue'), ('task', 'perturbations'))
    task = _task(top['task'])
    entries = top['perturbations']
    if not isinstance(entries, yaml.SequenceNode) or not entries.value:
        raise fault(entries, "'perturbations' must be a list of one perturbation or more")
    perturbations: list[tuple[Perturbation, yaml.Node]] = []
    for entry in entries.value:
        perturbation = _perturbation(entry, task, path.parent)
        for other, place in perturbations:
            _check_distinct(perturbation, entry, other, place)
        perturbations.append((perturbation, entry))
    return Catalogue(task=task.name, path=os.path.abspath(path),
                     digest=_digest(data, [p for p, _ in perturbations]),
                     perturbations=tuple(p for p, _ in perturbations),
                     lines=tuple(entry.start_mark.line + 1 for _, entry in perturbations))


def _digest(data: bytes, perturbations: Iterable[Perturbation]) -> str:
    digest = hashlib.sha256(data)
    for perturbation in perturbations:
        if perturbation.property == 'texture' and os.path.isabs(str(perturbation.value)):
            digest.update(_read(Path(str(perturbation.value)), 'picture', 'a PNG file'))
    return digest.hexdigest()


def _read(path: Path, what: str, kind: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f'There is no {what} {path}; give the path of {kind}.') from None
    except IsADirectoryError:
        raise UserError(f'The {what} {path} is a directory; give the path of {kind}.') from None
    except OSError as error:
        raise UserError(f'The {what} {path} cannot be read ({error.strerror}); '
                        f'give the path of {kind} that can.') from None


def _task(node: yaml.Node) -> Task:
    name = plain(node)
    if not isinstance(name, str):
        raise fault(node, f"'task' must be the name of a task, not {reprlib.repr(name)}")
    try:
        return get_task(name)
    except UserError as error:
        clause = str(error).rstrip('.')
        raise fault(node, clause[0].lower() + clause[1:]) from None


def _perturbation(entry: yaml.Node, task: Task, directory: Path) -> Perturbation:
    found = fields(entry, ('name', 'slot', 'value', 'sentence'))
    name = plain(found['name'])
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fault(found['name'], f'the name {reprlib.repr(name)} must be lower-case letters, '
                                   'digits and underscores and begin with a letter')
    if name == 'nominal':
        raise fault(found['name'], "the name 'nominal' is the unchanged scene's; choose another")
    slot = plain(found['slot'])
    if not isinstance(slot, str):
        raise fault(found['slot'], "'slot' must be part.property, for example cube.color, "
                                   f'not {reprlib.repr(slot)}')
    value = _value(slot, found, task, directory)
    return Perturbation(name, slot, value, _sentence(found['sentence']))


def _value(slot: str, found: dict[str, yaml.Node], task: Task, directory: Path) -> Value:
    node = found['value']
    try:
        prop = find_property(slot, task)
    except ValueError as error:
        raise fault(found['slot'], str(error)) from None
    given = plain(node)
    try:
        value = prop.read(given)
    except ValueError as error:
        raise fault(node, f'the value of {slot} {error}') from None
    if isinstance(value, str) and ('/' in value or value.lower().endswith('.png')):
        file = directory / value
        if not os.path.isfile(file):  # Path.is_file raises for names too long
            raise fault(node, f'there is no file {file} for {slot}; '
                              "give a PNG file or the name of one of robosuite's textures")
        return str(file.resolve())
    return value


def _sentence(node: yaml.Node) -> str:
    sentence = plain(node)
    if isinstance(sentence, str):
        sentence = ' '.join(sentence.split())
        if 0 < len(sentence) <= _MAX_SENTENCE and sentence.isprintable():
            return sentence
    raise fault(node, f"'sentence' must be a text of 1 to {_MAX_SENTENCE} characters that says "
                      'the change in English')


def _check_distinct(
        new: Perturbation, entry: yaml.Node, old: Perturbation, place: yaml.Node) -> None:
    line = place.start_mark.line + 1
    if new.name == old.name:
        raise fault(entry, f'the name {new.name!r} is taken by the perturbation on line {line}; '
                           'give each its own')
    if (new.slot, new.value) == (old.slot, old.value):
        raise fault(entry, f'{new.name!r} sets {new.slot} to the same value as {old.name!r} on '
                           f'line {line}; remove one of the two')
