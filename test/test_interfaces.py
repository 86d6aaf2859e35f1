# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The interfaces: described field by field, named as ROS 2 asks, and built as they are written."""

from collections import Counter
import importlib
from pathlib import Path
import re

import pytest
from rclpy.serialization import deserialize_message, serialize_message
from robomd_ros.msg import FailureMap, PerturbationResult

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for kind in ('action', 'msg', 'srv') for path in (ROOT / kind).iterdir())
PARTS = {'msg': [''], 'srv': ['Request', 'Response'], 'action': ['Goal', 'Result', 'Feedback']}
LINE = re.compile(
    r'(?P<type>[\w/]+(<=\d+)?(\[(<=)?\d*\])?) +'
    r'(?P<name>\w+)(?P<constant> *= *(?P<value>[^ #]+))?( +[^ #]+)? *(?P<comment># .+)?')


def parse(part):
    """Return the lines of an interface's part that declare something, taken to pieces."""
    lines = [line for line in part.splitlines() if line and not line.startswith('#')]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return [match.groupdict() for match in found]


def parts(path):
    """Return the declarations of each part of an interface file."""
    return [parse(part) for part in re.split(r'^---$', path.read_text(), flags=re.MULTILINE)]


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_described_and_named(path):
    assert re.fullmatch(r'([A-Z][a-z0-9]*)+', path.stem)
    assert re.match(r'# [A-Z].*[.,:]?\n', path.read_text()), 'begins with what it is'
    for declaration in (each for part in parts(path) for each in part):
        name = declaration['name']
        if declaration['constant']:
            assert re.fullmatch(r'[A-Z][A-Z0-9]*(_[A-Z0-9]+)*', name), name
        else:
            assert re.fullmatch(r'[a-z][a-z0-9]*(_[a-z0-9]+)*', name), name
            assert declaration['comment'], f'{name} has no comment'


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_built_as_written(path):
    kind = path.parent.name
    interface = getattr(importlib.import_module(f'robomd_ros.{kind}'), path.stem)
    for name, declarations in zip(PARTS[kind], parts(path), strict=True):
        part = getattr(interface, name) if name else interface
        fields = [each['name'] for each in declarations if not each['constant']]
        assert list(part.get_fields_and_field_types()) == fields
        for each in declarations:
            if each['constant']:
                assert getattr(part, each['name']) == int(each['value'])
        assert deserialize_message(serialize_message(part()), part) == part()


def test_error_codes_are_told_apart():
    codes = Counter()
    for path in FILES:
        for part in parts(path):
            if any(each['name'] == 'error_code' for each in part):
                assert any(each['name'] == 'error_msg' for each in part)
                codes.update(each['value'] for each in part if each['constant'])
    assert codes.pop('0') > 1
    assert set(codes.values()) == {1}, codes


def test_nested_values_survive_the_wire():
    row = PerturbationResult(name='red_table', n=3, failures=2, failure_rate=2 / 3, rank=1)
    sent = FailureMap(task='lift', seed=-1, perturbations=[row, PerturbationResult()])
    received = deserialize_message(serialize_message(sent), FailureMap)
    assert received == sent
    assert received.perturbations[0].failure_rate == 2 / 3
