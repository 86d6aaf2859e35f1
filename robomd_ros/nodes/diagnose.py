# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""diagnose: asks the diagnoser for a diagnosis, shows how it goes on and writes the report."""

from collections.abc import Callable
import math
import os
from pathlib import Path
import signal
import sys
import time
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.event_handler import QoSLivelinessChangedInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from robomd_ros.action import Diagnose
from robomd_ros.errors import UserError
from robomd_ros.graph import Argument, ARGUMENTS, ASKED
from robomd_ros.msg import RunState
from robomd_ros.ros.diagnostics import Diagnostics, Health, OK
from robomd_ros.ros.node import ALIVE, declare
from tqdm import tqdm

_CONNECT = 60.0  # s until the diagnoser must be there
_GOODBYE = 10.0  # s it gets to answer a goal and to stop after a cancel
_TELL = 5.0      # s between two lines where there is no terminal for a progress bar
_RESUME = 'the same command goes on from here'


class DiagnoseClient(Node):
    """The client of one diagnosis. stopped: set it once the user wants an end."""

    def __init__(self) -> None:
        super().__init__('diagnose')
        self.stopped = False
        self._gone = False
        given = {a.name: _declare(self, a) for a in ARGUMENTS if a.name in ASKED}
        self._goal = Diagnose.Goal(**{**given, 'out': os.path.abspath(given['out'])})
        self._client = ActionClient(self, Diagnose, 'diagnoser/diagnose')
        self.create_subscription(
            RunState, 'diagnoser/run_state', lambda state: None, ALIVE,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._liveliness_changed))
        self._diagnostics = Diagnostics(self, self._health)

    def run(self) -> int:
        """Have the policy diagnosed, write the report and return the exit code."""
        self._wait(self._client.server_is_ready, _CONNECT)
        if self.stopped:
            return 1
        if not self._client.server_is_ready():
            return _fail(f'After {_CONNECT:g} s there is still no diagnoser; start it.')
        progress = _Progress()
        sent = self._client.send_goal_async(
            self._goal, feedback_callback=lambda message: progress.show(message.feedback.state))
        self._wait(sent.done, _GOODBYE, stoppable=False)
        if sent.done():
            ended = sent.result().get_result_async()
            self._wait(ended.done)
            if self.stopped and not ended.done():
                sent.result().cancel_goal_async()
                self._wait(ended.done, _GOODBYE, stoppable=False)
        progress.close()
        if not (sent.done() and ended.done()):
            # On a Ctrl-C under `ros2 launch` the diagnoser ends before it can answer.
            what = 'Stopped' if self.stopped else 'The diagnoser has died or cannot be reached'
            return _fail(f'{what}; {_RESUME}.')
        return self._conclude(ended.result().result)

    def _wait(self, done: Callable[[], bool], seconds: float = math.inf,
              stoppable: bool = True) -> None:
        """Spin until it is done, the time is over, the diagnoser has gone or the user stops."""
        limit = time.monotonic() + seconds
        while not (done() or self._gone or time.monotonic() > limit or stoppable and self.stopped):
            rclpy.spin_once(self, timeout_sec=0.1)

    def _health(self) -> Health:
        return OK, 'Stopping.' if self.stopped else 'Waiting for the diagnosis.', {
            'out': self._goal.out}

    def _liveliness_changed(self, event: QoSLivelinessChangedInfo) -> None:
        self._gone = event.alive_count == 0

    def _conclude(self, result: Diagnose.Result) -> int:
        """Print what came out and return the exit code."""
        found = result.failure_map
        if result.error_code == result.CANCELED:
            done = found.rollouts_done
            return _fail(f'Stopped after {done} of {self._goal.rollouts} rollouts; {_RESUME}.'
                         if done else 'Stopped before the first rollout.')
        if result.error_code != result.NONE:
            others = result.BUSY, result.NO_EXECUTOR, result.INTERNAL
            return _fail(result.error_msg, 1 if result.error_code in others else 2)
        from robomd_ros.reports import conclude  # Matplotlib and the simulation take seconds

        print(conclude(Path(result.path).parent), flush=True)
        return 0


def _declare(node: Node, argument: Argument) -> Any:
    """Declare the parameter that is the argument; return what stands for its value in a goal."""
    default, about = argument.default, argument.description
    value = declare(node, argument.name, default, f'{about[0].upper()}{about[1:]}.',
                    argument.low if isinstance(default, int) else None, argument.high)
    # In a goal a share of 0 is one that was not set, and a negative one is 0.
    return value or -1.0 if isinstance(default, float) else value


class _Progress:
    """Shows how far the diagnosis is: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._told = -_TELL
        self._detail = ''

    def show(self, state: RunState) -> None:
        """Show the state."""
        if state.phase == RunState.CONNECTING and state.detail != self._detail:
            print(state.detail, flush=True)
            self._detail = state.detail
        if state.phase not in (RunState.RUNNING, RunState.FINISHED):
            return
        if sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).lines:
            self._show_bar(state)
        elif time.monotonic() - self._told >= _TELL or state.phase == RunState.FINISHED:
            self._told = time.monotonic()
            print(f'{state.rollouts_done} of {state.rollouts_asked} rollouts, {_rest(state)}',
                  flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _show_bar(self, state: RunState) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=state.rollouts_asked, initial=state.rollouts_done, unit='rollout',
                file=sys.stdout, dynamic_ncols=True, desc='Rollouts',
                bar_format='{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}')
        self._bar.n = state.rollouts_done
        self._bar.set_postfix_str(_rest(state))


def _rest(state: RunState) -> str:
    invalid = f', {state.invalid} invalid' if state.invalid else ''
    more = f'. {state.detail}'
    if math.isfinite(state.seconds_left):
        more = f', {state.rate:.0f} a minute, {tqdm.format_interval(state.seconds_left)} left'
    return f'{state.failures} failures{invalid}{more}'


def _fail(sentence: str, code: int = 1) -> int:
    print(sentence, file=sys.stderr, flush=True)
    return code


def main() -> int:
    """Run the client; Ctrl-C and SIGTERM cancel the diagnosis."""
    # rclpy's own handlers would shut the node down before it could cancel.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        client = DiagnoseClient()
    except UserError as error:
        return _fail(str(error), 2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(client, 'stopped', True))
    try:
        return client.run()
    except UserError as error:
        return _fail(str(error), 2)
    finally:
        client.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    raise SystemExit(main())
