# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""diagnoser: owns the search, the ledger and the failure map."""

from contextlib import suppress
from dataclasses import replace
from itertools import chain
import math
from pathlib import Path
import shlex
import shutil
import threading
import time
import traceback

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from robomd_ros.action import Diagnose
from robomd_ros.conditions import load_catalogue
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.diagnosis.failure_map import ConditionRow, FailureMap, MapRow
from robomd_ros.diagnosis.run import (
    check_settings,
    diagnose,
    MAP_FILE,
    Progress,
    Settings,
)
from robomd_ros.diagnosis.watching import DiagnosisCanceled
from robomd_ros.errors import UserError
from robomd_ros.msg import ExecutorInfo, RunState
from robomd_ros.msg import FailureMap as FailureMapMsg
from robomd_ros.rollouts import (
    LedgerError,
    OtherRunError,
    PolicyUnusable,
    RolloutCanceled,
    RunnerError,
)
from robomd_ros.ros.conversions import failure_map_to_msg, world_info_from_msg
from robomd_ros.ros.diagnostics import Diagnostics, ERROR, Health, OK, WARN
from robomd_ros.ros.links import Links
from robomd_ros.ros.map_painter import MapPainter
from robomd_ros.ros.node import ALIVE, declare, LATCHED, run_node, settle
from robomd_ros.ros.runner import GraphRunner

_TELL = 0.5           # s between two messages about the progress
_CLOSE = 4.0          # s that a diagnosis gets to stop when the process is to end
_LITTLE_DISK = 500e6  # bytes
_ERROR_CODES = (      # of the first that fits
    (OtherRunError, Diagnose.Result.OTHER_RUN),
    (LedgerError, Diagnose.Result.CANNOT_WRITE),
    (UserError, Diagnose.Result.BAD_GOAL),
    (DiagnosisCanceled, Diagnose.Result.CANCELED),
    (RolloutCanceled, Diagnose.Result.CANCELED),
    (PolicyUnusable, Diagnose.Result.POLICY_UNUSABLE),
    (RunnerError, Diagnose.Result.NO_EXECUTOR),
    (Exception, Diagnose.Result.INTERNAL),
)


class Diagnoser(Node):
    """Runs one diagnosis at a time and tells how it goes on."""

    def __init__(self) -> None:
        super().__init__('diagnoser')
        self.executors = declare(
            self, 'executors', 1, 'How many policy executors to wait for.', low=1, high=100)
        self.connect_timeout = declare(
            self, 'connect_timeout', 180, 'How long to wait for the other nodes, in s.', low=1)
        self.links = Links(self)
        self._states = self.create_publisher(RunState, '~/run_state', ALIVE)
        self._maps = self.create_publisher(FailureMapMsg, 'failure_map', LATCHED)
        self._painter = MapPainter(self)
        self._diagnosis: Diagnosis | None = None
        self._goal: ServerGoalHandle | None = None
        self.tell(RunState(detail='No diagnosis has been asked for.', seconds_left=math.nan))
        self._server = ActionServer(
            self, Diagnose, '~/diagnose', self._execute, cancel_callback=self._cancel)
        self._diagnostics = Diagnostics(self, self._health)

    def tell(self, state: RunState, found: FailureMap | None = None) -> FailureMapMsg:
        """Publish the state and the map; callable from any thread. Return the map as a message."""
        stamp = self.get_clock().now().to_msg()
        state.header.stamp = stamp
        message = failure_map_to_msg(found, stamp) if found else FailureMapMsg()
        self.state = state
        if self.context.ok():  # not so while the process ends
            self._states.publish(state)
            if found:
                self._maps.publish(message)
                self._painter.show(found)
            if self._goal is not None:
                self._goal.publish_feedback(Diagnose.Feedback(state=state, failure_map=message))
        return message

    def destroy_node(self) -> None:
        """Stop the diagnosis that runs, and end the node."""
        if self._diagnosis is not None:
            self._diagnosis.cancel()
            self._diagnosis.thread.join(_CLOSE)
        super().destroy_node()

    async def _execute(self, goal: ServerGoalHandle) -> Diagnose.Result:
        """Have a thread run the diagnosis, so that the node goes on spinning."""
        if self._diagnosis is not None:
            goal.abort()
            return Diagnose.Result(
                error_code=Diagnose.Result.BUSY,
                error_msg='Another diagnosis is running; wait for its end or cancel it.')
        done = Future()
        self._goal = goal
        self._diagnosis = Diagnosis(self, goal.request, done)
        self._diagnosis.thread.start()
        result: Diagnose.Result = await done
        self._goal = self._diagnosis = None
        if result.error_code == result.NONE:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        if self._diagnosis is not None:
            self._diagnosis.cancel()
        return CancelResponse.ACCEPT

    def _health(self) -> Health:
        state = self.state
        values = {
            'rollouts done': state.rollouts_done, 'rollouts asked': state.rollouts_asked,
            'invalid': state.invalid, 'rollouts per minute': f'{state.rate:.1f}',
            'policy executors': sum(e.ready for e in self.links.executors.values())}
        if self._diagnosis is not None and self._diagnosis.out.is_dir():
            free = shutil.disk_usage(self._diagnosis.out).free
            values['free disk, MB'] = free // 10**6
            if free < _LITTLE_DISK:
                return WARN, f'Little room is left for {self._diagnosis.out}.', values
        return ERROR if state.phase == RunState.FAILED else OK, state.detail, values


class Diagnosis:
    """One diagnosis, in a thread of its own. done: gets the action's result."""

    def __init__(self, node: Diagnoser, goal: Diagnose.Goal, done: Future) -> None:
        self.out = Path(goal.out).expanduser().absolute()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self._node, self._goal, self._done = node, goal, done
        self._stop = threading.Event()
        self._runner: GraphRunner | None = None
        self._first: Progress | None = None  # of this session
        self._last: Progress | None = None
        self._begun = self._told = 0.0

    def cancel(self) -> None:
        """Stop the running rollouts and end; what has ended is kept."""
        self._stop.set()
        if self._runner is not None:
            self._runner.cancel()

    def _work(self) -> None:
        result = Diagnose.Result()
        phase, detail = RunState.FINISHED, 'The diagnosis is done.'
        try:
            found = self._run()
            self._take(found)
            detail = f'The diagnosis is done. {found.stopped}'
        except Exception as error:
            result.error_code = next(c for kind, c in _ERROR_CODES if isinstance(error, kind))
            result.error_msg = detail = str(error)
            canceled = result.error_code == result.CANCELED
            phase = RunState.CANCELED if canceled else RunState.FAILED
            if result.error_code == result.INTERNAL:
                self._node.get_logger().error(traceback.format_exc())
            if self._last is not None:  # what has ended since is in the file
                with suppress(OSError, UserError):
                    self._take(FailureMap.from_json((self.out / MAP_FILE).read_text('utf-8')))
        finally:
            if self._runner is not None:
                self._runner.close()
        result.failure_map = self._tell(phase, detail)
        if self._last is not None:
            result.path = str(self.out / MAP_FILE)
        settle(self._node, self._done, result)

    def _run(self) -> FailureMap:
        goal = self._goal
        catalogue = load_catalogue(goal.catalogue or default_catalogue(goal.task))
        if not goal.out:
            raise UserError('out is empty; give the folder for the results.')
        settings = Settings(
            task=goal.task, policy='', catalogue=catalogue.path, searcher=goal.searcher,
            rollouts=goal.rollouts, seed=goal.seed, out=self.out,
            control_share=_share(goal.control_share, Settings.control_share),
            confirm_share=_share(goal.confirm_share, Settings.confirm_share),
            stop=goal.stop or Settings.stop,
            settle_top=goal.settle_top or Settings.settle_top,
            settle_within=_share(goal.settle_within, Settings.settle_within),
            reward=goal.reward or Settings.reward,
            max_perturbations=goal.max_perturbations or Settings.max_perturbations)
        check_settings(settings)
        self._tell(RunState.CONNECTING, 'Waiting for the other nodes.')
        executors = self._node.links.wait(
            self._node.executors, self._node.connect_timeout, self._stop,
            lambda detail: self._tell(RunState.CONNECTING, detail))
        info = executors[0].info
        assert info is not None
        self._runner = GraphRunner(self._node, self._node.links, executors)
        settings = replace(settings, policy=info.policy)
        return diagnose(
            settings, catalogue, self._runner, world_info_from_msg(info), info.policy_digest,
            dict(version.split(' ', 1) for version in info.versions),
            _command(settings, goal.catalogue, info, len(executors)),
            self._on_progress, self._stop.is_set)

    def _on_progress(self, progress: Progress) -> None:
        """Tell how far it is, now and then."""
        now = time.monotonic()
        self._last = progress
        if self._first is None or progress.detail:  # from here on rollouts a minute are counted
            self._first, self._begun = progress, now
        if now - self._told >= _TELL:
            self._told = now
            self._tell(RunState.RUNNING, progress.detail or 'Rollouts are being run.')

    def _take(self, found: FailureMap) -> None:
        """Take the map as the last one."""
        rows: tuple[MapRow | ConditionRow, ...] = (
            found.nominal, *found.perturbations, *found.conditions)
        budget = found.budget
        discovered = sum(row.discovery.failures for row in rows
                         if row.discovery and row.source != 'discovery')
        self._last = Progress(
            budget['done'], budget['asked'], sum(row.failures for row in rows) + discovered,
            budget['invalid'], lambda: found)

    def _tell(self, phase: int, detail: str) -> FailureMapMsg:
        state = RunState(phase=phase, detail=detail, rollouts_asked=self._goal.rollouts,
                         seconds_left=math.nan)
        last = self._last
        if last is not None:
            state.rollouts_done, state.failures, state.invalid = (
                last.done, last.failures, last.invalid)
        if last is not None and self._first is not None and last.done > self._first.done:
            per_second = (last.done - self._first.done) / (time.monotonic() - self._begun)
            state.rate = 60 * per_second
            state.seconds_left = (last.asked - last.done) / per_second
        return self._node.tell(state, last.read_map() if last is not None else None)


def _share(given: float, default: float) -> float:
    """Return the share that a goal asks for, in which 0 is what nobody has set."""
    return max(given, 0.0) if given else default


def _command(settings: Settings, catalogue: str, info: ExecutorInfo, executors: int) -> str:
    """Return the command that starts such a graph and asks for this diagnosis."""
    values = {
        'task': settings.task, 'policy': settings.policy, 'searcher': settings.searcher,
        'rollouts': settings.rollouts, 'seed': settings.seed,
        'control_share': settings.control_share, 'confirm_share': settings.confirm_share,
        'stop': settings.stop, 'settle_top': settings.settle_top,
        'settle_within': settings.settle_within, 'reward': settings.reward,
        'max_perturbations': settings.max_perturbations, 'executors': executors,
        'out': settings.out, 'catalogue': catalogue, 'horizon': info.horizon,
        'fidelity': info.fidelity}
    words = [(f'--{name}', str(value)) for name, value in values.items() if value != '']
    return shlex.join(['robomd', 'up', *chain.from_iterable(words)])


def main() -> int:
    """Run the node."""
    return run_node(Diagnoser)


if __name__ == '__main__':
    raise SystemExit(main())
