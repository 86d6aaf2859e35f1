# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""success_detector: gives the verdict on each rollout."""

from collections import Counter

from robomd_ros.msg import Outcome
from robomd_ros.ros.diagnostics import Diagnostics, Health, OK, WARN
from robomd_ros.ros.node import ManagedNode, run_node
from robomd_ros.srv import JudgeRollout


class SuccessDetector(ManagedNode):
    """Takes the simulator's own check as the verdict."""

    def __init__(self) -> None:
        super().__init__('success_detector')
        self._verdicts: Counter[int] = Counter()
        self._server = self.create_service(JudgeRollout, '~/judge_rollout', self._judge)
        self._diagnostics = Diagnostics(self, self._health)
        self.start()

    def _judge(self, request: JudgeRollout.Request,
               response: JudgeRollout.Response) -> JudgeRollout.Response:
        if not self.active:
            response.error_code = response.NOT_ACTIVE
            response.error_msg = f'{self.get_name()} is not active; activate it.'
        elif request.observed.verdict == Outcome.UNDECIDED:
            response.error_code = response.UNDECIDED
            response.error_msg = 'The world has no verdict of its own on this rollout.'
        else:
            response.outcome = request.observed
            self._verdicts[request.observed.verdict] += 1
        return response

    def _health(self) -> Health:
        values = {
            'success': self._verdicts[Outcome.SUCCESS],
            'failure': self._verdicts[Outcome.FAILURE],
            'invalid': self._verdicts[Outcome.INVALID],
        }
        return (OK, 'Ready.', values) if self.active else (WARN, 'Not active.', values)


def main() -> int:
    """Run the node."""
    return run_node(SuccessDetector)


if __name__ == '__main__':
    raise SystemExit(main())
