# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What `ppo` and `a2c` share: the paper's discrete search (Sec. III-A, Algorithm 1), in phases."""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from copy import deepcopy
from dataclasses import dataclass
import hashlib
import io
import json
import math
from pathlib import Path
import threading
from typing import Any, ClassVar, TypeVar
import zipfile

import numpy as np
from robomd_ros.diagnosis.environment import (
    control_request,
    run_one,
    Search,
    SearchEnv,
    Step,
)
from robomd_ros.errors import UserError
from robomd_ros.rollouts.ledger import write_whole
from robomd_ros.rollouts.protocol import RolloutRequest, RolloutResult
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
import torch

T = TypeVar('T')


@dataclass(frozen=True)
class Plan:
    """
    How a budget is spent: control rollouts, and the search's, in phases.

    rollouts: the budget. control: how many of it are control rollouts, at least; at least 1.
    parallel: environments. steps: of each of them in a whole phase.
    """

    rollouts: int
    control: int
    parallel: int
    steps: int

    @property
    def each(self) -> int:
        """Return how many steps each environment takes in the whole search."""
        return (self.rollouts - self.control) // self.parallel

    @property
    def search(self) -> int:
        """Return how many rollouts the search has."""
        return self.each * self.parallel

    @property
    def phases(self) -> int:
        """How many phases there are; the last may be shorter than the others."""
        return math.ceil(self.each / self.steps)

    def length(self, phase: int) -> int:
        """Return how many steps each environment takes in the phase."""
        return min(self.steps, self.each - phase * self.steps)

    def before(self, phase: int) -> int:
        """Return how many rollouts the search has had before the phase."""
        return min(phase * self.steps, self.each) * self.parallel

    def controls(self, phase: int) -> int:
        """Return how many control rollouts there are to be by the start of the phase."""
        rest = self.rollouts - self.search - 1
        return 1 + rest * self.before(phase) // self.search

    @property
    def possible(self) -> bool:
        """Whether there is something to learn from."""
        return self.search >= max(2, self.parallel)


@dataclass(frozen=True)
class Transition:
    """
    One step of an environment, as is learnt from it.

    observation: (3, 84, 84) uint8. start: whether it is an episode's first. value: the critic's.
    log_prob: of the action.
    """

    observation: np.ndarray
    action: int
    reward: float
    start: bool
    value: torch.Tensor
    log_prob: torch.Tensor
    info: dict[str, Any]


class Walk:
    """An environment and where it stands. observation, start: what its next Transition has."""

    def __init__(self, searcher: str, number: int, search: Search, plan: Plan) -> None:
        """Prepare the searcher's environment 0, 1, 2, ...; nothing is run before restart."""
        self.number = number
        self._searcher, self._steps = searcher, plan.steps
        self.environment = SearchEnv(
            search.catalogue, search.runner, search.seed, search.reward, search.max_perturbations,
            self.key, trial=lambda earlier: earlier * plan.parallel + number)
        self.observation = np.empty((3, 84, 84), np.uint8)
        self.start = True

    def key(self, rollout: int) -> str:
        """Return the key of the environment's rollout 0, 1, 2, ..."""
        phase, step = divmod(rollout, self._steps)
        return f'{self._searcher}/{phase}/{self.number}/{step}'

    def restart(self) -> None:
        """Begin an episode."""
        self.observation, self.start = _channels_first(self.environment.reset()[0]), True

    def follow(self, step: Step) -> np.ndarray | None:
        """
        Go where the environment's step has led, into a new episode if it has ended the last one.

        Return the observation a truncated episode ended with, None for all others.
        """
        picture, _, terminated, truncated, _ = step
        observation = _channels_first(picture)
        if not (terminated or truncated):
            self.observation, self.start = observation, False
            return None
        self.restart()
        return observation if truncated else None


class Learner(OnPolicyAlgorithm):
    """
    Stable-baselines3's PPO or A2C, mixed with it, whose environments need not wait for each other.

    The weights do not change within a phase, so what is learnt is the same. All random numbers are
    functions of the seed and of where in the search they are drawn, so there is no state of a
    generator to save.
    searcher: its name. preset: what the algorithm is made with; the rest is stable-baselines3's.
    history: a digest of all it has learnt from. num_timesteps: rollouts it has learnt from.
    """

    searcher: ClassVar[str]
    preset: ClassVar[dict[str, Any]]

    def __init__(self, seed: int, plan: Plan, walks: list[Walk]) -> None:
        """Make the networks, their weights drawn with the seed."""
        self.search_seed = seed
        self.history = str(seed)
        set_random_seed(_derive(seed))
        super().__init__(
            'CnnPolicy', DummyVecEnv([_maker(walk) for walk in walks]), n_steps=plan.steps,
            device='cpu', **deepcopy(self.preset))  # which the algorithm changes
        self.set_logger(Logger(folder=None, output_formats=[]))
        self.policy.set_training_mode(False)

    def log_preferences(self, observations: np.ndarray) -> torch.Tensor:
        """Return log pi(a|s), (n, actions), of observations (n, 3, 84, 84)."""
        policy = self.policy
        with torch.no_grad():
            # Not get_distribution: it leaves what it returns where another thread replaces it.
            features = policy.extract_features(
                torch.tensor(observations), policy.pi_features_extractor)
            assert isinstance(features, torch.Tensor)  # actor and critic share them
            logits = policy.action_net(policy.mlp_extractor.forward_actor(features))
        return logits.log_softmax(dim=-1)

    def values(self, observations: np.ndarray) -> torch.Tensor:
        """Return the critic's values, (n,), of observations (n, 3, 84, 84)."""
        with torch.no_grad():
            return self.policy.predict_values(torch.tensor(observations)).flatten()

    def advance(
        self, walk: Walk, phase: int, steps: int, stop: threading.Event,
    ) -> list[Transition]:
        """Have one environment take its steps of the phase, or fewer if told to stop."""
        transitions = []
        for step in range(steps):
            if stop.is_set():
                break
            observation, start = walk.observation, walk.start
            value = self.values(observation[None])[0]
            log_preferences = self.log_preferences(observation[None])[0]
            generator = torch.Generator()
            generator.manual_seed(_derive(self.search_seed, phase, walk.number, step))
            action = int(torch.multinomial(log_preferences.exp(), 1, generator=generator))
            taken = walk.environment.take(action, float(log_preferences[action].exp()))
            _, reward, _, _, info = taken
            truncated = walk.follow(taken)
            if truncated is not None:  # what would have come after it, as collect_rollouts does
                reward += self.gamma * float(self.values(truncated[None]))
            transitions.append(Transition(
                observation, action, reward, start, value, log_preferences[action], info))
        return transitions

    def learn_phase(self, phase: int, walks: list[Walk], taken: list[list[Transition]]) -> None:
        """Update the weights from what each environment did in the phase."""
        buffer = self.rollout_buffer
        buffer.buffer_size = len(taken[0])
        buffer.reset()
        for step in zip(*taken, strict=True):
            buffer.add(
                np.array([t.observation for t in step]), np.array([t.action for t in step]),
                np.array([t.reward for t in step]), np.array([t.start for t in step]),
                torch.stack([t.value for t in step]), torch.stack([t.log_prob for t in step]))
        buffer.compute_returns_and_advantage(
            self.values(np.array([walk.observation for walk in walks])),
            np.array([walk.start for walk in walks]))
        set_random_seed(_derive(self.search_seed, phase))
        self.train()
        self.policy.set_training_mode(False)
        self.num_timesteps += len(taken) * len(taken[0])
        self.history = _history(self.history, [[t.info for t in walk] for walk in taken])

    def save_whole(self, path: Path) -> None:
        """Write a checkpoint as stable-baselines3 does, whole or not at all."""
        file = io.BytesIO()
        self.save(file)
        write_whole(path, file.getvalue())

    def load_weights(self, path: Path) -> None:
        """Take a checkpoint's weights, optimizer, num_timesteps and history; unpickle nothing."""
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read('data'))
        self.set_parameters(str(path), device='cpu')
        self.num_timesteps, self.history = int(data['num_timesteps']), str(data['history'])


class LearningSearch:
    """A search that learns: goes on from its checkpoint, or the ledger where that is behind."""

    def __init__(self, search: Search, plan: Plan, learner: type[Learner]) -> None:
        """Find out where to go on; runs the first control rollout if that has not been run."""
        self._search, self._plan, self._learner = search, plan, learner
        self._checkpoint = search.checkpoints / f'{learner.searcher}.zip'
        self._nominal: dict[int, np.ndarray] = {}  # trial -> observation
        self._start_over()
        self._phase = 0
        if self._checkpoint.exists():
            self._phase = self._resume()
            if not self._phase:
                self._start_over()

    def run(self) -> None:
        """Run the phases that are left."""
        plan, runner = self._plan, self._search.runner
        controls = [self._control(trial) for trial in range(plan.controls(self._phase))]
        self._see(runner.run(controls))
        if self._phase:
            self._report()
        stop = threading.Event()
        pool = ThreadPoolExecutor(plan.parallel) if plan.parallel > 1 else _Here()
        try:
            for phase in range(self._phase, plan.phases):
                if not self._begun(phase) and self._search.settled():
                    break
                self._run_phase(phase, pool, stop)
                self._report()
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _begun(self, phase: int) -> bool:
        """Whether an earlier session has begun the phase, so that nobody is asked once more."""
        first = phase * self._plan.steps
        return any(self._search.recorded(walk.key(first)) for walk in self._walks)

    def _run_phase(self, phase: int, pool: Executor, stop: threading.Event) -> None:
        """Run the environments' steps and some control rollouts, which fill the gaps; learn."""
        plan, model = self._plan, self._model
        walks = [pool.submit(model.advance, walk, phase, plan.length(phase), stop)
                 for walk in self._walks]
        controls = [pool.submit(run_one, self._search.runner, self._control(trial))
                    for trial in range(plan.controls(phase), plan.controls(phase + 1))]
        for walk in wait(walks, return_when=FIRST_EXCEPTION).done:
            walk.result()
        model.learn_phase(phase, self._walks, [walk.result() for walk in walks])
        model.save_whole(self._checkpoint)
        self._see(control.result() for control in controls)

    def _control(self, trial: int) -> RolloutRequest:
        return control_request(self._search.seed, trial)

    def _see(self, controls: Iterable[RolloutResult]) -> None:
        for control in controls:
            self._nominal[control.request.trial] = _channels_first(control.first_frame)

    def _report(self) -> None:
        """Tell the search mass: pi(a|s), averaged over the nominal scene's first frames."""
        frames = np.array([self._nominal[trial] for trial in sorted(self._nominal)])
        chunks = np.array_split(frames, len(frames) // 64 + 1)
        masses = torch.cat([self._model.log_preferences(chunk).exp() for chunk in chunks])
        self._search.on_mass(masses.mean(dim=0).numpy())

    def _start_over(self) -> None:
        search, plan = self._search, self._plan
        self._walks = [Walk(self._learner.searcher, number, search, plan)
                       for number in range(plan.parallel)]
        self._model = self._learner(search.seed, plan, self._walks)
        for walk in self._walks:
            walk.restart()

    def _resume(self) -> int:
        """
        Return how many phases the checkpoint has behind it, with everything as after them.

        0 if it cannot be read or is none of this search: the rollouts are in the ledger, so that
        all that is lost is the time to learn from them again.
        """
        try:
            self._model.load_weights(self._checkpoint)
        except Exception:  # noqa: B902, what a file can do to a reader has no end
            return 0
        plan, history = self._plan, str(self._search.seed)
        phases = math.ceil(self._model.num_timesteps / (plan.steps * plan.parallel))
        if plan.before(phases) != self._model.num_timesteps:
            return 0
        for phase in range(phases):
            infos = [[self._repeat(walk) for _ in range(plan.length(phase))]
                     for walk in self._walks]
            history = _history(history, infos)
        return phases if history == self._model.history else 0

    def _repeat(self, walk: Walk) -> dict[str, Any] | None:
        """Have the environment take its next step as the ledger has it; None if it has not."""
        names = self._search.recorded(walk.key(walk.environment.rollouts))
        if names is None:
            return None
        step = walk.environment.repeat(names)
        walk.follow(step)
        return step[-1]


def check_budget(rollouts: int, control: int, parallel: int) -> None:
    """Raise UserError if so many rollouts, so many at a time, are too few to learn from."""
    if not Plan(rollouts, control, parallel, 1).possible:
        raise UserError(f'{rollouts} rollouts, {control} of them of the nominal scene, are too '
                        f'few for the searcher to learn from with {parallel} at a time; ask for '
                        'more.')


def run_phases(search: Search, learner: type[Learner], steps: int) -> None:
    """
    Run the search; steps is what an environment takes between two updates of the weights.

    The budget is one that check_budget takes.
    """
    plan = Plan(search.rollouts, search.control, search.runner.parallel, steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how many there are, and the cores have work
    try:
        LearningSearch(search, plan, learner).run()
    finally:
        torch.set_num_threads(threads)


class _Here(Executor):
    """Runs what is submitted at once, in the thread that submits it."""

    def submit(self, function: Callable[..., T], /, *values: Any, **names: Any) -> Future[T]:
        """Return a future that is done; raise what the function raises."""
        future: Future[T] = Future()
        future.set_result(function(*values, **names))
        return future


def _maker(walk: Walk) -> Callable[[], SearchEnv]:
    return lambda: walk.environment


def _channels_first(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def _derive(*numbers: int) -> int:
    """Return a seed below 2**32 that is a function of the numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4])


def _history(before: str, infos: list[list[dict[str, Any] | None]]) -> str:
    return hashlib.sha256((before + json.dumps(infos)).encode()).hexdigest()
