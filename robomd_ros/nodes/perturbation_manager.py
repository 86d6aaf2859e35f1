# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""perturbation_manager: owns the catalogue and the condition each scene is set to."""

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from robomd_ros.action import PrepareScene
from robomd_ros.conditions import load_catalogue
from robomd_ros.conditions.catalogue import default_catalogue
from robomd_ros.errors import UserError
from robomd_ros.msg import SceneCondition
from robomd_ros.ros.conversions import condition_to_msg
from robomd_ros.ros.diagnostics import Diagnostics, Health, OK
from robomd_ros.ros.node import declare, LATCHED, RESULT_TIMEOUT, run_node


class PerturbationManager(Node):
    """Resolves the perturbations asked for and says what each scene is set to."""

    def __init__(self) -> None:
        super().__init__('perturbation_manager')
        task = declare(self, 'task', 'lift', 'The task whose scenes are set.')
        path = declare(self, 'catalogue', '', "The catalogue file; empty takes the task's own.")
        self._catalogue = load_catalogue(path or default_catalogue(task))
        if self._catalogue.task != task:
            raise UserError(f'{self._catalogue.path} is a catalogue of the task '
                            f'{self._catalogue.task}, not {task}; give one of {task}.')
        self._prepared = 0
        self._conditions = self.create_publisher(SceneCondition, '~/condition', LATCHED)
        self._server = ActionServer(
            self, PrepareScene, '~/prepare_scene', self._prepare, result_timeout=RESULT_TIMEOUT,
            cancel_callback=lambda goal: CancelResponse.REJECT)  # it has ended before that arrives
        self._diagnostics = Diagnostics(self, self._health)
        self.get_logger().info(f'{len(self._catalogue)} perturbations in {self._catalogue.path}')

    def _prepare(self, goal: ServerGoalHandle) -> PrepareScene.Result:
        """Answer at once: in simulation the policy executor itself sets the scene."""
        result = PrepareScene.Result()
        names = list(goal.request.perturbations)
        try:
            condition = self._catalogue.condition(names)
        except UserError as error:
            known = all(name in self._catalogue.names for name in names)
            result.error_code = result.SAME_SLOT if known else result.UNKNOWN_PERTURBATION
            result.error_msg = str(error)
            goal.abort()
            return result
        result.condition = condition_to_msg(condition)
        message = SceneCondition(scene=goal.request.scene, condition=result.condition)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = 'world'
        self._conditions.publish(message)
        self._prepared += 1
        goal.succeed()
        return result

    def _health(self) -> Health:
        return OK, 'Ready.', {'catalogue': self._catalogue.path, 'scenes prepared': self._prepared}


def main() -> int:
    """Run the node."""
    return run_node(PerturbationManager)


if __name__ == '__main__':
    raise SystemExit(main())
