# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The gate's verdicts as JUnit XML, which continuous integration servers read."""

from collections.abc import Sequence
import io
from pathlib import Path
import re

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.regression import Verdict
from robomd_ros.rollouts.ledger import write_whole

JUNIT_FILE = 'junit.xml'


def write_junit(out: Path, found: FailureMap, verdicts: Sequence[Verdict], baseline: Path) -> Path:
    """
    Write DIR/junit.xml, whole; return its path.

    out: DIR. baseline: the folder that was compared with. One test case a verdict, of the class
    TASK.POLICY. The suite's properties say what it is of: seed, rollouts, versions and digests.
    Raises LedgerError if it cannot be written.
    """
    settings = found.settings
    suite = TestSuite('robomd')
    suite.timestamp = found.created
    about = {name: settings[name] for name in (
        'task', 'policy', 'policy_digest', 'catalogue_digest', 'searcher', 'seed', 'horizon')}
    about |= {'baseline': baseline, 'n': found.budget['done'], 'invalid': found.budget['invalid']}
    about |= {f'version.{name}': version for name, version in found.versions.items()}
    for name, value in about.items():
        suite.add_property(_text(name), _text(value))
    for verdict in verdicts:
        case = TestCase(_text(verdict.name), _text(f'{settings["task"]}.{settings["policy"]}'))
        if verdict.outcome == 'failed':
            case.result = [Failure(_text(verdict.sentence), 'new failure mode')]
        elif verdict.outcome == 'skipped':
            case.result = [Skipped(_text(verdict.sentence))]
        else:
            case.system_out = _text(verdict.sentence)
        suite.add_testcase(case)
    report = JUnitXml('robomd')
    report.add_testsuite(suite)
    report.update_statistics()
    text = io.BytesIO()
    report.write(text)
    path = out / JUNIT_FILE
    write_whole(path, text.getvalue())
    return path


def _text(value: object) -> str:
    """Return the value as text, without the characters that XML cannot hold."""
    return re.sub('[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]', '\ufffd', str(value))
