# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""GraphRunner: runs rollouts through the other nodes of the graph."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import queue
import time
from typing import Any

from action_msgs.msg import GoalStatus
import numpy as np
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from robomd_ros import msg
from robomd_ros.action import ExecuteRollout, MeasureDeviation, PrepareScene
from robomd_ros.conditions import Condition
from robomd_ros.errors import UserError
from robomd_ros.rollouts import (
    PolicyUnusable,
    RolloutCanceled,
    RolloutRequest,
    RolloutResult,
    RunnerError,
)
from robomd_ros.rollouts.protocol import Deviation
from robomd_ros.ros.conversions import condition_to_msg, image_from_msg, outcome_from_msg
from robomd_ros.ros.links import ExecutorLink, Links
from robomd_ros.srv import JudgeRollout
from robomd_ros.worlds.protocol import Outcome

_ANSWER = 5.0      # s within which a node that is alive answers what takes it no time
_ROLLOUT = 120.0  # s within which an executor gives a sign of life: feedback or the result
_AGAIN = 0.5      # s until a busy executor is asked again
_RESUME = 'the same command goes on from here'


@dataclass(frozen=True)
class _Share:
    """Conditions, by their numbers, that one executor is to measure the deviations of."""

    conditions: Mapping[int, Condition]
    seed: int


@dataclass(eq=False)
class _Job:
    """
    What is asked of one executor.

    ended: where its result goes, or the exception in its place: a RolloutResult, or Deviations by
    the numbers of their conditions. told: how many conditions the executor says are done.
    """

    asked: RolloutRequest | _Share
    ended: 'queue.SimpleQueue[tuple[_Job, Any]]'
    handle: ClientGoalHandle | None = None
    dropped: bool = False
    told: int = 0


@dataclass(eq=False)
class _Wait:
    """An answer that is awaited: who gives it and for how many seconds it is awaited at most."""

    future: Future
    name: str
    seconds: float
    executor: ExecutorLink | None
    since: float = field(default_factory=time.monotonic)


class GraphRunner:
    """
    Runs rollouts: PrepareScene, ExecuteRollout on a free executor, JudgeRollout.

    Deviations are measured with MeasureDeviation, which sets the scene by itself.
    What it asks of other nodes it asks in coroutines, all in the thread that spins the node, so
    that they need no lock; run may be called from several other threads at a time.
    """

    def __init__(self, node: Node, links: Links, executors: list[ExecutorLink]) -> None:
        info = executors[0].info
        assert info is not None
        self.parallel = len(executors)
        self.horizon = int(info.horizon)
        self._task = info.task
        self._node = node
        self._links = links
        self._idle = deque(executors)
        self._waiting: deque[_Job] = deque()
        self._jobs: set[_Job] = set()
        self._waits: set[_Wait] = set()
        self._canceled = False
        links.lost = self._lost
        self._timer = node.create_timer(0.5, self._watch)

    def run(self, requests: Iterable[RolloutRequest]) -> Iterator[RolloutResult]:
        """
        Run the requests and yield the results as they finish, in any order.

        One request more than there are executors is taken ahead, so that none of them waits for
        the caller. Raises RunnerError when no rollout can be run any more, RolloutCanceled after
        cancel, and UserError if the graph cannot set a scene to a condition.
        """
        ended: queue.SimpleQueue[tuple[_Job, Any]] = queue.SimpleQueue()
        jobs: set[_Job] = set()
        try:
            for request in requests:
                self._take(_Job(request, ended), jobs)
                if len(jobs) > self.parallel:
                    yield self._next(jobs, ended)
            while jobs:
                yield self._next(jobs, ended)
        finally:
            self._call(self._drop, jobs)

    def deviations(self, conditions: Sequence[Condition], seed: int,
                   on_progress: Callable[[int], None]) -> list[Deviation]:
        """
        Measure how far each condition moves the policy's actions, without a rollout under it.

        The executors share the conditions, and each runs the nominal rollouts, which are the same.
        on_progress: called with how many conditions are done, once in a while.
        Raises what run does, and PolicyUnusable.
        """
        numbered = dict(enumerate(conditions))
        ended: queue.SimpleQueue[tuple[_Job, Any]] = queue.SimpleQueue()
        jobs: set[_Job] = set()
        found: dict[int, Deviation] = {}

        def tell() -> None:
            on_progress(len(found) + sum(job.told for job in jobs))

        try:
            for first in range(min(self.parallel, len(conditions))):
                share = {n: numbered[n] for n in range(first, len(conditions), self.parallel)}
                self._take(_Job(_Share(share, seed), ended), jobs)
            while jobs:
                found.update(self._next(jobs, ended, tell))
                tell()
        finally:
            self._call(self._drop, jobs)
        return [found[number] for number in numbered]

    def cancel(self) -> None:
        """Stop the running rollouts and let every run, now and later, raise RolloutCanceled."""
        self._canceled = True
        self._call(self._drop, self._jobs)

    def close(self) -> None:
        """Watch over the executors no longer."""
        self._links.lost = lambda executor: None
        self._node.destroy_timer(self._timer)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have the thread that spins the node call the function, or run the coroutine."""
        if self._node.executor is not None:
            self._node.executor.create_task(function, *arguments)

    def _take(self, job: _Job, jobs: set[_Job]) -> None:
        jobs.add(job)
        self._jobs.add(job)
        self._waiting.append(job)
        self._call(self._assign)

    def _next(self, jobs: set[_Job], ended: 'queue.SimpleQueue[tuple[_Job, Any]]',
              on_wait: Callable[[], None] = lambda: None) -> Any:
        """Return the next result of the jobs, or raise it; on_wait: called every second."""
        while True:
            try:
                job, result = ended.get(timeout=1.0)
                break
            except queue.Empty:
                if not self._node.context.ok():
                    raise RolloutCanceled(f'The diagnoser was stopped; {_RESUME}.') from None
                on_wait()
        jobs.discard(job)
        if isinstance(result, Exception):
            raise result
        return result

    # What follows runs in the thread that spins the node.

    def _assign(self) -> None:
        while self._idle and self._waiting:
            self._call(self._carry_out, self._idle.popleft(), self._waiting.popleft())

    def _drop(self, jobs: set[_Job]) -> None:
        for job in list(jobs):
            job.dropped = True
            if job.handle is not None:
                job.handle.cancel_goal_async()

    async def _carry_out(self, executor: ExecutorLink, job: _Job) -> None:
        result: Any
        try:
            try:
                if isinstance(job.asked, _Share):
                    result = await self._measure(executor, job, job.asked)
                else:
                    rollout = await self._execute(executor, job, job.asked)
            finally:
                self._idle.append(executor)
                self._assign()  # the next rollout does not wait for the verdict on this one
            if isinstance(job.asked, RolloutRequest):
                result = await self._judge(executor.name, job.asked, rollout)
        except Exception as error:
            result = error
        self._jobs.discard(job)
        job.ended.put((job, result))

    async def _measure(
        self, executor: ExecutorLink, job: _Job, share: _Share,
    ) -> dict[int, Deviation]:
        """Have the deviations measured."""
        def hear(message: Any) -> None:
            executor.hear(message)
            job.told = message.feedback.done

        goal = MeasureDeviation.Goal(
            conditions=[condition_to_msg(c) for c in share.conditions.values()], seed=share.seed)
        result: MeasureDeviation.Result = await self._ask(
            executor, job, executor.deviations, goal, hear)
        if result.error_code == result.POLICY_UNUSABLE:
            raise PolicyUnusable(result.error_msg)
        if result.error_code:
            raise RunnerError(result.error_msg)
        return {number: Deviation(translation, gripper, result.states, result.rollouts)
                for number, translation, gripper in zip(
                    share.conditions, result.translation, result.gripper, strict=True)}

    async def _execute(self, executor: ExecutorLink, job: _Job,
                       request: RolloutRequest) -> ExecuteRollout.Result:
        """Have the scene prepared and the rollout run."""
        self._check_there(executor)
        condition = await self._prepare(executor, request)
        goal = ExecuteRollout.Goal(condition=condition, seed=request.seed, trial=request.trial)
        result: ExecuteRollout.Result = await self._ask(
            executor, job, executor.rollouts, goal, executor.hear)
        return result

    async def _ask(self, executor: ExecutorLink, job: _Job, client: ActionClient, goal: Any,
                   hear: Callable[[Any], None]) -> Any:
        """Have the executor do what the goal says, once it is free; return the action's result."""
        busy = True
        while busy:
            self._check_there(executor)
            if self._canceled or job.dropped:
                raise RolloutCanceled('The rollout was canceled.')
            job.handle = await self._answer(
                client.send_goal_async(goal, feedback_callback=hear),
                executor.name, _ROLLOUT, executor)
            if job.dropped:  # since the goal was sent
                job.handle.cancel_goal_async()
            result = (await self._answer(
                job.handle.get_result_async(), executor.name, _ROLLOUT, executor)).result
            job.handle = None
            busy = result.error_code == result.BUSY
            if busy:  # with a rollout for a diagnoser that has died
                await self._sleep(_AGAIN)
        if result.error_code == result.CANCELED:
            raise RolloutCanceled('The rollout was canceled.')
        if result.error_code == result.BAD_CONDITION:
            raise UserError(result.error_msg)
        if result.error_code == result.NOT_ACTIVE:
            raise RunnerError(result.error_msg)
        return result

    def _check_there(self, executor: ExecutorLink) -> None:
        if executor.info is None:
            raise RunnerError(f'{executor.name} has died or cannot be reached; {_RESUME}.')

    async def _prepare(self, executor: ExecutorLink, request: RolloutRequest) -> msg.Condition:
        goal = PrepareScene.Goal(scene=executor.name, perturbations=request.condition.names)
        status = GoalStatus.STATUS_UNKNOWN
        while status == GoalStatus.STATUS_UNKNOWN:  # the result was not fetched in time
            handle = await self._answer(
                self._links.scenes.send_goal_async(goal), 'perturbation_manager', _ANSWER)
            answer = await self._answer(
                handle.get_result_async(), 'perturbation_manager', _ANSWER)
            status, result = answer.status, answer.result
        if result.error_code or result.condition != condition_to_msg(request.condition):
            why = result.error_msg or f'it knows another {request.condition.label}.'
            raise UserError('perturbation_manager and the diagnosis have different catalogues, '
                            f'start both with the same one: {why}')
        return result.condition

    async def _judge(self, executor: str, request: RolloutRequest,
                     rollout: ExecuteRollout.Result) -> RolloutResult:
        answer: JudgeRollout.Response = await self._answer(
            self._links.judge.call_async(JudgeRollout.Request(
                task=self._task, condition=condition_to_msg(request.condition),
                observed=rollout.observed, steps=rollout.steps)),
            'success_detector', _ANSWER)
        if answer.error_code == answer.NOT_ACTIVE:
            raise RunnerError(answer.error_msg)
        outcome = outcome_from_msg(answer.outcome)
        if answer.error_code == answer.UNDECIDED:
            outcome = Outcome('invalid', 'undecided', source='success_detector')
        return RolloutResult(
            request, outcome, rollout.steps, rollout.duration, _picture(rollout.first_frame),
            _picture(rollout.last_frame), executor)

    async def _answer(self, future: Future, name: str, seconds: float,
                      executor: ExecutorLink | None = None) -> Any:
        """Await the answer; raise RunnerError if it does not come or the executor is lost."""
        wait = _Wait(future, name, seconds, executor)
        self._waits.add(wait)
        try:
            return await future
        finally:
            self._waits.discard(wait)

    async def _sleep(self, seconds: float) -> None:
        over = Future()
        timer = self._node.create_timer(seconds, lambda: over.set_result(None))
        await over
        self._node.destroy_timer(timer)

    def _watch(self) -> None:
        now = time.monotonic()
        for wait in list(self._waits):
            heard = max(wait.since, wait.executor.heard if wait.executor else 0.0)
            if now - heard > wait.seconds:
                self._give_up(wait, f'{wait.name} has not answered for {wait.seconds:g} s')

    def _lost(self, executor: ExecutorLink) -> None:
        for wait in list(self._waits):
            if wait.executor is executor:
                self._give_up(wait, f'{executor.name} has died or cannot be reached')

    def _give_up(self, wait: _Wait, what: str) -> None:
        self._waits.discard(wait)
        wait.future.set_exception(RunnerError(f'{what}; {_RESUME}.'))


def _picture(message: Any) -> np.ndarray:
    # A world that failed before it could show anything has sent no picture.
    return image_from_msg(message) if message.data else np.zeros((84, 84, 3), np.uint8)
