# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""policy_executor: owns one world and the policy under test, and runs rollouts with them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
import dataclasses
from functools import partial
import sys
import time
import traceback
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from robomd_ros.action import ExecuteRollout, MeasureDeviation
from robomd_ros.conditions import load_catalogue, NOMINAL
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.conditions.tasks import get_task
from robomd_ros.errors import UserError
from robomd_ros.msg import ExecutorInfo
from robomd_ros.rollouts import (
    LocalRunner,
    PolicyUnusable,
    RolloutCanceled,
    RolloutRequest,
    run_rollout,
    RunnerError,
    versions,
)
from robomd_ros.ros.conversions import (
    condition_from_msg,
    image_to_msg,
    joint_state_to_msg,
    outcome_to_msg,
)
from robomd_ros.ros.diagnostics import Diagnostics, ERROR, Health, OK, WARN
from robomd_ros.ros.node import ALIVE, declare, ManagedNode, RESULT_TIMEOUT, run_node, settle
from robomd_ros.worlds.protocol import Outcome
from sensor_msgs.msg import Image, JointState

_FEEDBACK = 0.2  # s of wall time between two feedbacks
_SHOW = 0.1      # s of wall time between two pictures, and between two joint states
_ACTING = ExecuteRollout.Feedback.ACTING
_CLOSE = 4.0     # s that the world gets to be closed when the process is to end

_Work = Callable[[ServerGoalHandle], Any]  # does what the goal asks; returns the action's result


class PolicyExecutor(ManagedNode):
    """Serves one goal at a time, in the one thread that world and policy belong to."""

    def __init__(self) -> None:
        super().__init__('policy_executor')
        self._task = declare(self, 'task', 'lift', 'What the robot is to do.')
        self._policy_name = declare(
            self, 'policy', 'builtin:lift', 'The policy under test: builtin:NAME, '
            'visuomotor:PATH, robomimic:PATH, torchscript:PATH or python:MODULE:FACTORY.')
        self._fidelity = declare(
            self, 'fidelity', '', 'What the pictures keep, full or fast; empty for what the '
            'policy was trained on.')
        self._horizon = declare(
            self, 'horizon', 0, "Control steps (50 ms) a rollout gets; 0 for the task's own.",
            low=0)
        self._catalogue = declare(
            self, 'catalogue', '',
            "The catalogue whose changes must be possible here; empty takes the task's own.")
        self._frame = get_task(self._task).camera
        self._camera = self.create_publisher(Image, 'camera/image_raw', 1)
        self._joints = self.create_publisher(JointState, 'joint_states', 1)
        self._worker = ThreadPoolExecutor(1)
        self._busy = self._closing = False
        self._rollouts, self._steps_per_second, self._last_error = 0, 0.0, ''
        self._servers = [ActionServer(
            self, action, name, partial(self._serve, action.Result, work),
            cancel_callback=lambda goal: CancelResponse.ACCEPT, result_timeout=RESULT_TIMEOUT)
            for action, name, work in (
                (ExecuteRollout, '~/execute_rollout', self._run),
                (MeasureDeviation, '~/measure_deviation', self._measure))]
        self._diagnostics = Diagnostics(self, self._health)
        self.start()

    def load(self) -> None:
        """Load the policy and make the world; raise UserError if that cannot be done."""
        began = time.monotonic()
        info = self._worker.submit(self._load).result()
        self._info_publisher = self.create_publisher(ExecutorInfo, '~/info', ALIVE)
        self._info_publisher.publish(info)
        self.get_logger().info(f'{self._policy_name} is loaded, {info.fidelity} pictures through '
                               f'{info.renderer}, after {time.monotonic() - began:.1f} s')

    def unload(self) -> None:
        """Close the world and forget the policy."""
        self.destroy_publisher(self._info_publisher)
        self._worker.submit(self._close).result()

    def destroy_node(self) -> None:
        """Stop the rollout that runs, close the world and end the node."""
        self._closing = True
        wait([self._worker.submit(self._close)], _CLOSE)
        super().destroy_node()

    async def _serve(self, kind: Any, work: _Work, goal: ServerGoalHandle) -> Any:
        """Have the worker do the work, so that the node goes on spinning; kind: of the result."""
        if not self.active:
            result = _refusal(kind, kind.NOT_ACTIVE,
                              f'{self.get_name()} is not active; activate it.')
        elif self._busy:
            result = _refusal(kind, kind.BUSY,
                              f'{self.get_name()} is at another goal; wait for its end.')
        else:
            self._busy = True
            done = Future()
            self._worker.submit(self._work, kind, work, goal, done)
            result = await done
            self._busy = False
        if result.error_code == result.NONE:
            goal.succeed()
        elif result.error_code == result.CANCELED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    def _health(self) -> Health:
        values = {
            'rollouts': self._rollouts,
            'control steps per second': f'{self._steps_per_second:.1f}',
            'last error': self._last_error,
        }
        if not self.active:
            return WARN, 'Not active.', values
        if self._last_error:
            return ERROR, self._last_error, values
        return OK, 'At work.' if self._busy else 'Ready.', values

    # What follows runs in the worker thread.

    def _load(self) -> ExecutorInfo:
        # These import torch and the simulation, which takes seconds.
        from robomd_ros.policies.loading import load_policy
        from robomd_ros.worlds.mujoco_world import MujocoWorld

        self._policy = load_policy(self._policy_name, self._task)
        if 'torch' in sys.modules:  # each executor is to keep to one core
            sys.modules['torch'].set_num_threads(1)
        self._world = MujocoWorld(
            self._task, self._policy.needs, self._fidelity or None, self._horizon or None)
        self._world_info = self._world.info
        self._world.check(load_catalogue(self._catalogue or default_catalogue(self._task)))
        # Whatever hinders drawing comes out here, and numba compiles what the first step needs.
        self._world.reset(NOMINAL, 0, 0)
        self._world.step(np.zeros(self._policy.needs.action_size))
        info = self._world_info
        return ExecutorInfo(
            task=info.task, policy=self._policy_name, policy_digest=self._policy.digest,
            world=info.world, model_digest=info.model_digest, fidelity=info.fidelity,
            renderer=info.renderer, horizon=info.horizon, instruction=info.instruction,
            versions=[f'{name} {version}' for name, version in versions().items()])

    def _close(self) -> None:
        if hasattr(self, '_world'):
            self._world.close()
            del self._world, self._policy

    def _work(self, kind: Any, work: _Work, goal: ServerGoalHandle, done: Future) -> None:
        try:
            result = work(goal)
            self._last_error = ''
        except RolloutCanceled:
            result = _refusal(kind, kind.CANCELED, 'The goal was canceled.')
        except PolicyUnusable as error:
            result = _refusal(kind, kind.POLICY_UNUSABLE, str(error))
        except RunnerError as error:
            result = _refusal(kind, kind.WORLD_FAULT, str(error))
        except UserError as error:
            result = _refusal(kind, kind.BAD_CONDITION, str(error))
        except Exception as error:
            if self.context.ok():  # else it is that nothing can be published any more
                self.get_logger().error(traceback.format_exc())
            self._last_error = f'The world failed: {type(error).__name__}: {error}.'
            result = _refusal(kind, kind.WORLD_FAULT, self._last_error)
            if kind is ExecuteRollout.Result:
                result.observed = outcome_to_msg(
                    Outcome('invalid', 'world_fault', source='rollout'))
        settle(self, done, result)

    def _pulse(self, goal: ServerGoalHandle) -> Callable[[object], bool]:
        """Return what a step of the work has to call with its feedback; whether to stop."""
        told = shown = time.monotonic()

        def pulse(feedback: object) -> bool:
            nonlocal told, shown
            now = time.monotonic()
            if now - told >= _FEEDBACK:
                told = now
                goal.publish_feedback(feedback)
            if now - shown >= _SHOW:
                shown = now
                self._show()
            return self._closing or goal.is_cancel_requested

        return pulse

    def _measure(self, goal: ServerGoalHandle) -> MeasureDeviation.Result:
        asked = goal.request
        task = get_task(self._task)
        conditions = [condition_from_msg(condition, task) for condition in asked.conditions]
        self._world.info = self._world_info
        feedback, pulse = MeasureDeviation.Feedback(), self._pulse(goal)

        def on_progress(done: int) -> None:
            feedback.done = done

        runner = LocalRunner(self._world, self._policy, lambda: pulse(feedback))
        found = runner.deviations(conditions, asked.seed, on_progress)
        return MeasureDeviation.Result(
            translation=[each.translation for each in found],
            gripper=[each.gripper for each in found],
            states=found[0].states if found else 0, rollouts=found[0].rollouts if found else 0)

    def _run(self, goal: ServerGoalHandle) -> ExecuteRollout.Result:
        asked = goal.request
        condition = condition_from_msg(asked.condition, get_task(self._task))
        request = RolloutRequest('', condition, asked.seed, asked.trial)
        info = self._world_info
        self._world.info = dataclasses.replace(
            info, horizon=asked.horizon or info.horizon,
            instruction=asked.instruction or info.instruction)
        pulse = self._pulse(goal)

        def on_step(step: int) -> bool:
            return pulse(ExecuteRollout.Feedback(phase=_ACTING, step=step))

        rollout = run_rollout(self._world, self._policy, request, self.get_name(), on_step)
        self._rollouts += 1
        self._steps_per_second = rollout.steps / max(rollout.duration, 1e-6)
        stamp = self.get_clock().now().to_msg()
        return ExecuteRollout.Result(
            observed=outcome_to_msg(rollout.outcome),
            steps=rollout.steps, duration=rollout.duration,
            first_frame=image_to_msg(rollout.first_frame, stamp, self._frame),
            last_frame=image_to_msg(rollout.last_frame, stamp, self._frame))

    def _show(self) -> None:
        """Publish the picture and the joints as they are now, to those who look."""
        stamp = self.get_clock().now().to_msg()
        if self._camera.get_subscription_count():
            self._camera.publish(image_to_msg(self._world.picture(), stamp, self._frame))
        if self._joints.get_subscription_count():
            self._joints.publish(joint_state_to_msg(*self._world.joint_state(), stamp))


def _refusal(kind: Any, code: int, sentence: str) -> Any:
    return kind(error_code=code, error_msg=sentence)


def main() -> int:
    """Run the node."""
    return run_node(PolicyExecutor)


if __name__ == '__main__':
    raise SystemExit(main())
