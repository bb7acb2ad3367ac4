"""A member of a population as a Ray process: the driver of a run of its own.

It lives on the controller's node, where the population's folder is, and takes orders between the steps of its loop,
so that nothing is copied while an update is under way.
"""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from impala_mi.envs.base import Level
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.learner import checkpoint as checkpoints
from impala_mi.learner.checkpoint import Checkpoint, digest
from impala_mi.metrics import LevelScores
from impala_mi.pbt.journal import FITNESS
from impala_mi.pbt.settings import Parameters, PopulationConfig
from impala_mi.placement import Places
from impala_mi.rundir import RunFolder
from impala_mi.stop import StopSignal
from impala_mi.system import Trainer

T = TypeVar("T")


class Busy(Exception):
    """A member that stops, or has stopped, takes no orders."""


@dataclass(frozen=True)
class Birth:
    """What a member begins with."""

    seed: int
    parameters: Parameters


@dataclass(frozen=True)
class Status:
    """How far a member has come."""

    env_frames: int
    episodes: int
    """Since its last decision, or its birth."""
    returns: dict[str, float]
    """Mean return of each level with enough episodes in the window."""
    generation: int
    parameters: Parameters
    fps: float
    score: float | None
    """For people, over the episodes there are."""


@dataclass
class _Order:
    do: Callable[[Trainer], Any]
    done: "Future[Any]"


def status_of(state: Mapping[str, Any], env_frames: int, scores: LevelScores, least: int, fps: float) -> Status:
    """Of a member, from what checkpoints hold of the population and its episodes."""
    episodes = sum(scores.episodes) - state["episodes"]
    returns = scores.mean_returns(least)
    return Status(env_frames, episodes, returns, state["generation"], state["parameters"], fps, scores.score())


def saved_status(config: PopulationConfig, levels: Sequence[Level], found: Checkpoint) -> Status:
    """Of a member that waits."""
    scores = LevelScores(levels, config.train.score_episodes)
    scores.load_state(found.run["scores"])
    state, frames = found.run["population"], found.meta["env_frames"]
    return status_of(state, frames, scores, config.pbt.least_episodes, 0.0)


class _Member:
    def __init__(self, config: PopulationConfig, folder: str, birth: Birth, places: Places) -> None:
        self._config, self._folder, self._places = config, RunFolder(Path(folder)), places
        self._stop, self._orders = StopSignal(), queue.Queue[_Order]()
        self._lock, self._open = threading.Lock(), True
        found = checkpoints.load(self._folder.checkpoints) if checkpoints.steps(self._folder.checkpoints) else None
        self._resumed = found
        # Of the population, as it goes into checkpoints: the episodes are those before the last decision.
        self._state: dict[str, Any] = (
            {"generation": 0, "parameters": birth.parameters, "episodes": 0}
            if found is None
            else found.run["population"]
        )
        self._mine = config.member(self._state["parameters"], birth.seed)
        self._trainer: Trainer | None = None

    def run(self) -> Literal["done", "interrupted"]:
        """Train until the end or until told to stop, and leave a checkpoint."""
        try:
            with self._folder.locked():
                self._folder.save_config(self._mine)
                trainer = Trainer(
                    self._mine, make_suite(self._mine.env), self._folder, self._resumed, lambda _: None, self._stop,
                    between=self._serve, places=self._places,
                )  # fmt: skip
                self._resumed = None
                trainer.records.hparams(self._state["parameters"], FITNESS)
                self._tell(trainer)
                try:
                    self._trainer = trainer
                    result = trainer.run()
                finally:
                    trainer.close()
        except OSError as e:
            raise TrainingError(f"cannot write to {self._folder.path}: {e}") from None
        finally:
            with self._lock:
                self._open = False
            self._refuse()
        return result.status

    @ray.method(concurrency_group="look")
    def status(self) -> Status | None:
        """How far it has come; None before it has begun."""
        return None if self._trainer is None else self._status(self._trainer)

    @ray.method(concurrency_group="order")
    def state(self, generation: int) -> dict[str, Any]:
        """What its learner has learnt, if it is still of this generation. Raises `Busy`."""

        def give(trainer: Trainer) -> dict[str, Any]:
            if self._state["generation"] != generation:
                raise Busy(f"it is of generation {self._state['generation']} by now, not {generation}")
            return trainer.state()

        return self._ask(give)

    @ray.method(concurrency_group="order")
    def adopt(self, generation: int, parameters: Parameters, donor: dict[str, Any] | None) -> str | None:
        """Become another generation, with other parameters and, where given, what another's learner has learnt.

        Returns the digest of the weights copied, None where there are none. Raises `Busy`.
        """
        config = self._config.member(parameters, self._mine.seed)

        def become(trainer: Trainer) -> str | None:
            before = dict(trainer.records.state)
            episodes = sum(trainer.records.scores.episodes)
            self._state = {"generation": generation, "parameters": parameters, "episodes": episodes}
            self._tell(trainer)
            if not trainer.adopt(config, donor):
                self._state = before["population"]
                self._tell(trainer)
                raise Busy("it stops, and its learner does not answer")
            trainer.records.event("adopted", generation=generation, copied=donor is not None, **parameters)
            return None if donor is None else digest(donor)

        return self._ask(become)

    @ray.method(concurrency_group="look")
    def fitness(self, value: float | None) -> None:
        """As the controller sees it, for the records."""
        if self._trainer is not None:
            more = self._trainer.records.more
            self._trainer.records.more = {k: v for k, v in more.items() if k != FITNESS} | (
                {} if value is None else {FITNESS: value}
            )

    @ray.method(concurrency_group="look")
    def stop(self) -> None:
        """End soon, with a checkpoint."""
        self._stop.name = "pause"

    def _status(self, trainer: Trainer) -> Status:
        frames, records = trainer.counters.env_frames, trainer.records
        return status_of(self._state, frames, records.scores, self._config.pbt.least_episodes, records.fps)

    def _tell(self, trainer: Trainer) -> None:
        """What checkpoints and records hold of the population."""
        trainer.records.state = {"population": dict(self._state)}
        numbers = {f"pbt/{k}": float(v) for k, v in self._state["parameters"].items() if not isinstance(v, str)}
        trainer.records.more = {"pbt/generation": float(self._state["generation"]), **numbers}

    def _ask(self, do: Callable[[Trainer], T]) -> T:
        """Have the loop do something between two steps."""
        order = _Order(do, Future())
        with self._lock:
            if not self._open or self._stop.name is not None:
                raise Busy("it has stopped")
            self._orders.put(order)
        answer: T = order.done.result()
        return answer

    def _serve(self, trainer: Trainer) -> None:
        """Follow the orders there are."""
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            try:
                order.done.set_result(order.do(trainer))
            except Busy as e:
                order.done.set_exception(e)
            except BaseException as e:
                order.done.set_exception(Busy(f"its run failed: {e}"))
                raise

    def _refuse(self) -> None:
        while True:
            try:
                self._orders.get_nowait().done.set_exception(Busy("it has stopped"))
            except queue.Empty:
                return


class MemberProcess:
    """A typed handle of a member, whose run begins at once in its `places`."""

    def __init__(self, config: PopulationConfig, folder: Path, birth: Birth, places: Places) -> None:
        self.places = places
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote
        made = remote(concurrency_groups={"look": 1, "order": 2}, max_restarts=0)(_Member)
        self._handle = made.options(num_cpus=0, scheduling_strategy=here).remote(config, str(folder), birth, places)
        self.ended: ray.ObjectRef[str] = self._handle.run.remote()

    def status(self) -> "ray.ObjectRef[Status | None]":
        """See `_Member.status`."""
        return self._handle.status.remote()

    def state(self, generation: int) -> "ray.ObjectRef[dict[str, Any]]":
        """See `_Member.state`."""
        return self._handle.state.remote(generation)

    def adopt(self, generation: int, parameters: Parameters, donor: Any) -> "ray.ObjectRef[str | None]":
        """See `_Member.adopt`; `donor` may be a reference."""
        return self._handle.adopt.remote(generation, parameters, donor)

    def fitness(self, value: float | None) -> None:
        """See `_Member.fitness`."""
        self._handle.fitness.remote(value)

    def stop(self) -> None:
        """See `_Member.stop`."""
        self._handle.stop.remote()

    def kill(self) -> None:
        """End the process, and with it what it started."""
        ray.kill(self._handle)
