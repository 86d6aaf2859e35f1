# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""YAML files written by hand: read so that every fault names the file and the line."""

from pathlib import Path
import reprlib

from robomd_ros.errors import UserError
import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import ReaderError


def read_yaml(path: Path, what: str) -> yaml.Node:
    """
    Return the file's top node; every node knows its file and line.

    what: what the file is to its reader, e.g. 'the sidecar'. Raises UserError if it is not YAML.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f'There is no file {path}; {what} must be a YAML file.') from None
    except OSError as error:
        raise UserError(f'{path} cannot be read ({error.strerror}); '
                        f'{what} must be a YAML file.') from None
    return parse_yaml(path, data, what)


def parse_yaml(path: Path, data: bytes, what: str) -> yaml.Node:
    """Do as read_yaml does with the bytes of the file."""
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
        raise UserError(f'{path}, line 1: nested too deeply.') from None
    if root is None:
        raise UserError(f'{path}, line 1: {what} is empty.')
    return root


def place(node: yaml.Node) -> str:
    """Return where the node stands: file and line."""
    return f'{node.start_mark.name}, line {node.start_mark.line + 1}'


def fault(node: yaml.Node, clause: str) -> UserError:
    """Return the error that says, after file and line, what is wrong with the node."""
    return UserError(f'{place(node)}: {clause}.')


def fields(node: yaml.Node, required: tuple[str, ...],
           optional: tuple[str, ...] = ()) -> dict[str, yaml.Node]:
    """Return key -> value node; raise UserError for a missing, unknown or double key."""
    keys = (*required, *optional)
    found = mapping(node, f'there must be a mapping with the keys {", ".join(keys)} here')
    for key_node, _ in node.value:
        key = plain(key_node)
        if key not in keys:
            raise fault(key_node, f'unknown key {reprlib.repr(key)}; '
                                  f'the keys are {", ".join(keys)}')
    for key in required:
        if key not in found:
            raise fault(node, f'the key {key!r} is missing; the keys are {", ".join(keys)}')
    return found


def mapping(node: yaml.Node, clause: str) -> dict[str, yaml.Node]:
    """Return key -> value node; raise UserError with the clause for anything but a mapping."""
    if not isinstance(node, yaml.MappingNode):
        raise fault(node, clause)
    found: dict[str, yaml.Node] = {}
    for key_node, value_node in node.value:
        key = plain(key_node)
        if not isinstance(key, str):
            raise fault(key_node, f'the key {reprlib.repr(key)} must be a text')
        if key in found:
            line = found[key].start_mark.line + 1
            raise fault(key_node, f'the key {key!r} is on line {line} already; '
                                  'remove one of the two')
        found[key] = value_node
    return found


def plain(node: yaml.Node) -> object:
    """Return what the node stands for in YAML: text, a number, a list, ..."""
    try:
        return SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError,
            TypeError, ValueError):
        # PyYAML lets the likes of `!!int x` and the date 2026-99-99 raise whatever they raise.
        raise fault(node, 'YAML cannot make a value of this; '
                          'write a text, a number or a list of numbers') from None
