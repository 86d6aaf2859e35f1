# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Messages to and from the plain Python of the other rooms."""

from __future__ import annotations

import array
import math
from typing import TYPE_CHECKING

from builtin_interfaces.msg import Time
import numpy as np
from robomd_ros import msg
from robomd_ros.conditions import Condition, Perturbation
from robomd_ros.conditions.slots import find_property
from robomd_ros.conditions.tasks import Task
from robomd_ros.errors import UserError
from robomd_ros.worlds.protocol import Outcome, WorldInfo
from sensor_msgs.msg import Image, JointState
import yaml

if TYPE_CHECKING:
    from robomd_ros.diagnosis.failure_map import ConditionRow, FailureMap, MapRow

_VERDICTS = {
    '': msg.Outcome.UNDECIDED,
    'success': msg.Outcome.SUCCESS,
    'failure': msg.Outcome.FAILURE,
    'invalid': msg.Outcome.INVALID,
}
_CONDITIONS = 50  # stacked ones in a message; a search can try thousands
_VERDICT_NAMES = {number: name for name, number in _VERDICTS.items()}


def condition_to_msg(condition: Condition) -> msg.Condition:
    """Return the condition as a message."""
    return msg.Condition(perturbations=[
        msg.Perturbation(
            name=p.name, slot=p.slot, value=_value_to_yaml(p.value), sentence=p.sentence)
        for p in condition.perturbations])


def condition_from_msg(message: msg.Condition, task: Task) -> Condition:
    """Return the message as a condition of the task; raise UserError if it is none."""
    try:
        return Condition(tuple(
            Perturbation(p.name, p.slot, find_property(p.slot, task).read(yaml.safe_load(p.value)),
                         p.sentence)
            for p in message.perturbations))
    except (ValueError, yaml.YAMLError) as error:
        first_line = str(error).partition('\n')[0]
        raise UserError(f'That is not a condition of {task.name}: {first_line}.') from None


def _value_to_yaml(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=math.inf)
    return text.removesuffix('...\n').strip()


def outcome_to_msg(outcome: Outcome | None) -> msg.Outcome:
    """Return the outcome as a message; None is undecided."""
    if outcome is None:
        return msg.Outcome()
    return msg.Outcome(verdict=_VERDICTS[outcome.verdict], reason=outcome.reason,
                       confidence=outcome.confidence, source=outcome.source)


def outcome_from_msg(message: msg.Outcome) -> Outcome:
    """Return the message as an outcome; its verdict is empty if it is undecided."""
    verdict = _VERDICT_NAMES[message.verdict]
    return Outcome(verdict, message.reason, message.confidence, message.source)


def image_to_msg(pixels: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """Return the (height, width, 3) uint8 RGB picture as a message."""
    height, width, _ = pixels.shape
    message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    data = array.array('B')  # the one type the setter of data takes without looking at every byte
    data.frombytes(np.ascontiguousarray(pixels).data)
    message.data = data
    return message


def image_from_msg(message: Image) -> np.ndarray:
    """Return the rgb8 picture as (height, width, 3) uint8."""
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def joint_state_to_msg(names: list[str], positions: np.ndarray, velocities: np.ndarray,
                       stamp: Time) -> JointState:
    """Return the joints' positions in rad and velocities in rad/s as a message."""
    message = JointState(name=names, position=positions.tolist(), velocity=velocities.tolist())
    message.header.stamp = stamp
    return message


def world_info_from_msg(message: msg.ExecutorInfo) -> WorldInfo:
    """Return what the message says of the executor's world."""
    return WorldInfo(
        world=message.world, task=message.task, model_digest=message.model_digest,
        fidelity=message.fidelity, renderer=message.renderer, horizon=message.horizon,
        instruction=message.instruction)


def failure_map_to_msg(failure_map: FailureMap, stamp: Time) -> msg.FailureMap:
    """Return the failure map as a message."""
    from robomd_ros.reports.sentences import findings  # brings jinja2

    settings = failure_map.settings
    message = msg.FailureMap(
        task=settings['task'], policy=settings['policy'], searcher=settings['searcher'],
        seed=settings['seed'], rollouts_done=failure_map.budget['done'],
        rollouts_asked=failure_map.budget['asked'], nominal=_row_to_msg(failure_map.nominal),
        perturbations=[_row_to_msg(row) for row in failure_map.perturbations],
        conditions=[_condition_to_msg(row) for row in failure_map.conditions[:_CONDITIONS]],
        stopped=failure_map.stopped, findings=findings(failure_map))
    message.header.stamp = stamp
    message.header.frame_id = 'world'
    return message


_SOURCES = {
    '': msg.PerturbationResult.NOT_TRIED,
    'discovery': msg.PerturbationResult.DISCOVERY,
    'confirmation': msg.PerturbationResult.CONFIRMATION,
}
_VERDICTS_OF_ROWS = {
    'not shown': msg.PerturbationResult.NOT_SHOWN,
    'failure mode': msg.PerturbationResult.FAILURE_MODE,
    'better than nominal': msg.PerturbationResult.BETTER_THAN_NOMINAL,
}


def _row_to_msg(row: MapRow) -> msg.PerturbationResult:
    message = msg.PerturbationResult(
        name=row.name, sentence=row.sentence, source=_SOURCES[row.source], n=row.n,
        failures=row.failures, failure_rate=_or_nan(row.failure_rate),
        interval_low=row.interval[0], interval_high=row.interval[1], anytime_low=row.anytime[0],
        anytime_high=row.anytime[1], verdict=_VERDICTS_OF_ROWS[row.verdict], difference=math.nan,
        difference_low=math.nan, difference_high=math.nan, p_holm=math.nan,
        suspicion=_or_nan(row.suspicion), search_mass=_or_nan(row.search_mass),
        estimate=_or_nan(row.estimate), rank=row.rank or 0, invalid=row.invalid)
    message.discovery_high = 1.0
    if row.discovery:
        message.discovery_low, message.discovery_high = row.discovery.interval
        message.discovery_n, message.discovery_failures = row.discovery.n, row.discovery.failures
    if row.versus_nominal:
        versus = row.versus_nominal
        message.pairs, message.difference = versus.pairs, _or_nan(versus.difference)
        message.difference_low, message.difference_high = versus.interval
        message.p_holm = versus.p_holm
    return message


def _condition_to_msg(row: ConditionRow) -> msg.ConditionResult:
    return msg.ConditionResult(
        perturbations=row.perturbations, source=_SOURCES[row.source], n=row.n,
        failures=row.failures, failure_rate=_or_nan(row.failure_rate),
        interval_low=row.interval[0], interval_high=row.interval[1], invalid=row.invalid)


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number
