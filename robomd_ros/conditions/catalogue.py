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
import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError

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
    root = _compose(path, data)
    fields = _fields(root, ('task', 'perturbations'))
    task = _task(fields['task'])
    entries = fields['perturbations']
    if not isinstance(entries, yaml.SequenceNode) or not entries.value:
        raise _fault(entries, "'perturbations' must be a list of one perturbation or more")
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


def _compose(path: Path, data: bytes) -> yaml.Node:
    """Return the file's top node; every node's start_mark says where in the file it stands."""
    try:
        text = data.decode()
        loader = yaml.SafeLoader(text)
        loader.name = str(path)
        root = loader.get_single_node()
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path}, line {line}: not UTF-8 text; save it as UTF-8.') from None
    except ReaderError as error:
        line = text.count('\n', 0, error.position) + 1
        raise UserError(f'{path}, line {line}: not YAML: it holds the character '
                        f'{chr(error.character)!r}; remove it.') from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = ', '.join(' '.join(part.split()) for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        raise UserError(f'{path}, line {line}: not YAML: {why}.') from None
    except RecursionError:
        raise UserError(f'{path}, line 1: not a catalogue: nested too deeply.') from None
    if root is None:
        raise UserError(f'{path}, line 1: the catalogue is empty; '
                        "it needs the keys 'task' and 'perturbations'.")
    return root


def _fault(node: yaml.Node, clause: str) -> UserError:
    mark = node.start_mark
    return UserError(f'{mark.name}, line {mark.line + 1}: {clause}.')


def _fields(node: yaml.Node, keys: tuple[str, ...]) -> dict[str, yaml.Node]:
    """Return key -> value node of a mapping that must have exactly these keys."""
    wanted = ', '.join(keys)
    if not isinstance(node, yaml.MappingNode):
        raise _fault(node, f'there must be a mapping with the keys {wanted} here')
    fields: dict[str, yaml.Node] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = _plain(key_node)
        if key not in keys:
            raise _fault(key_node, f'unknown key {reprlib.repr(key)}; the keys are {wanted}')
        if key in fields:
            raise _fault(key_node, f'the key {key!r} is on line {lines[key]} already; '
                                   'remove one of the two')
        fields[key] = value_node
        lines[key] = key_node.start_mark.line + 1
    for key in keys:
        if key not in fields:
            raise _fault(node, f'the key {key!r} is missing; the keys are {wanted}')
    return fields


def _plain(node: yaml.Node) -> object:
    """Return what the node stands for in YAML: text, a number, a list, ..."""
    try:
        return SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError,
            TypeError, ValueError):
        # PyYAML lets the likes of `!!int x` and the date 2026-99-99 raise whatever they raise.
        raise _fault(node, 'YAML cannot make a value of this; write a text, a number or a list of '
                           'numbers') from None


def _task(node: yaml.Node) -> Task:
    name = _plain(node)
    if not isinstance(name, str):
        raise _fault(node, f"'task' must be the name of a task, not {reprlib.repr(name)}")
    try:
        return get_task(name)
    except UserError as error:
        clause = str(error).rstrip('.')
        raise _fault(node, clause[0].lower() + clause[1:]) from None


def _perturbation(entry: yaml.Node, task: Task, directory: Path) -> Perturbation:
    fields = _fields(entry, ('name', 'slot', 'value', 'sentence'))
    name = _plain(fields['name'])
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _fault(fields['name'], f'the name {reprlib.repr(name)} must be lower-case letters, '
                                     'digits and underscores and begin with a letter')
    if name == 'nominal':
        raise _fault(fields['name'], "the name 'nominal' is the unchanged scene's; choose another")
    slot = _plain(fields['slot'])
    if not isinstance(slot, str):
        raise _fault(fields['slot'], "'slot' must be part.property, for example cube.color, "
                                     f'not {reprlib.repr(slot)}')
    value = _value(slot, fields, task, directory)
    return Perturbation(name, slot, value, _sentence(fields['sentence']))


def _value(slot: str, fields: dict[str, yaml.Node], task: Task, directory: Path) -> Value:
    node = fields['value']
    try:
        prop = find_property(slot, task)
    except ValueError as error:
        raise _fault(fields['slot'], str(error)) from None
    plain = _plain(node)
    try:
        value = prop.read(plain)
    except ValueError as error:
        raise _fault(node, f'the value of {slot} {error}') from None
    if isinstance(value, str) and ('/' in value or value.lower().endswith('.png')):
        file = directory / value
        if not os.path.isfile(file):  # Path.is_file raises for names too long
            raise _fault(node, f'there is no file {file} for {slot}; '
                               "give a PNG file or the name of one of robosuite's textures")
        return str(file.resolve())
    return value


def _sentence(node: yaml.Node) -> str:
    sentence = _plain(node)
    if isinstance(sentence, str):
        sentence = ' '.join(sentence.split())
        if 0 < len(sentence) <= _MAX_SENTENCE and sentence.isprintable():
            return sentence
    raise _fault(node, f"'sentence' must be a text of 1 to {_MAX_SENTENCE} characters that says "
                       'the change in English')


def _check_distinct(
        new: Perturbation, entry: yaml.Node, old: Perturbation, place: yaml.Node) -> None:
    line = place.start_mark.line + 1
    if new.name == old.name:
        raise _fault(entry, f'the name {new.name!r} is taken by the perturbation on line {line}; '
                            'give each its own')
    if (new.slot, new.value) == (old.slot, old.value):
        raise _fault(entry, f'{new.name!r} sets {new.slot} to the same value as {old.name!r} on '
                            f'line {line}; remove one of the two')
