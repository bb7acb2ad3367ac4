"""A member of a population as a Ray process: the driver of a run of its own.

It lives on the controller's node, where the population's folder is, and takes orders between the steps of its loop,
so that nothing is copied while an update is under way.
"""

import queue
import threading
import time
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
from impala_mi.host.signals import StopSignal
from impala_mi.pbt.journal import FITNESS
from impala_mi.pbt.settings import Parameters, PopulationConfig
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.checkpoint import Checkpoint, digest
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.metrics import LevelScores
from impala_mi.training.placement import Places
from impala_mi.training.trainer import Trainer

T = TypeVar("T")


STATUS_EVERY_S = 0.5


class Busy(Exception):
    """A member that stops, has stopped or has become another does not do it; it is as it was."""


class RunFailed(Exception):
    """A member's run ended with the order; its checkpoint tells how far it came."""


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


@dataclass
class _Order:
    do: Callable[[Trainer], Any]
    done: "Future[Any]"


def status_of(state: Mapping[str, Any], env_frames: int, scores: LevelScores, least: int, fps: float) -> Status:
    """Of a member, from what checkpoints hold of the population and its episodes."""
    episodes = sum(scores.episodes) - state["episodes"]
    returns = scores.mean_returns(least)
    return Status(env_frames, episodes, returns, state["generation"], state["parameters"], fps)


def saved_status(config: PopulationConfig, levels: Sequence[Level], found: Checkpoint) -> Status:
    """Of a member that waits."""
    scores = LevelScores(levels, config.train.score_episodes)
    scores.load_state(found.run["scores"])
    state, frames = found.run["member"], found.meta["env_frames"]
    return status_of(state, frames, scores, config.pbt.least_episodes, 0.0)


class _Member:
    def __init__(self, config: PopulationConfig, folder: str, birth: Birth, places: Places) -> None:
        self._config, self._folder, self._places = config, RunFolder(Path(folder)), places
        self._stop, self._orders = StopSignal(), queue.Queue[_Order]()
        self._lock, self._open = threading.Lock(), True
        found = checkpoints.load(self._folder.checkpoints) if checkpoints.steps(self._folder.checkpoints) else None
        self._resumed = found
        # As it goes into checkpoints; the episodes are those before its last decision.
        self._state: dict[str, Any] = (
            {"generation": 0, "parameters": birth.parameters, "episodes": 0}
            if found is None
            else found.run["member"]
        )
        self._mine = config.member(self._state["parameters"], birth.seed)
        self._status: Status | None = None
        self._fitness: float | None = None
        self._told_at = 0.0

    def run(self) -> Literal["done", "interrupted"]:
        """Train until the end or until told to stop, and leave a checkpoint."""
        try:
            with self._folder.locked():
                self._folder.save_config(self._mine)
                trainer = Trainer(
                    self._mine, make_suite(self._mine.env), self._folder, self._resumed, lambda _: None, self._stop,
                    between=self._serve, places=self._places,
                )  # fmt: skip
                trainer.records.member = self._state
                trainer.records.scores.least = self._config.pbt.least_episodes
                if self._resumed is None:  # TensorBoard shows the first row there is
                    trainer.records.hparams(self._state["parameters"], FITNESS)
                self._resumed = None
                try:
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
    def status(self, fitness: float | None) -> Status | None:
        """How far it has come, None before it has begun; `fitness` as the controller sees it, for the records."""
        self._fitness = fitness
        return self._status

    @ray.method(concurrency_group="order")
    def state(self, generation: int) -> dict[str, Any]:
        """What its learner has learnt, if it is still of this generation. Raises `Busy`."""

        def give(trainer: Trainer) -> dict[str, Any]:
            if self._state["generation"] != generation:
                raise Busy(f"it is of generation {self._state['generation']} by now, not {generation}")
            return trainer.state()

        return self._ask(give)

    @ray.method(concurrency_group="order")
    def adopt(
        self, generation: int, parameters: Parameters, donor: dict[str, Any] | None, expected: str | None
    ) -> None:
        """Become another generation, with other parameters and, where given, what another's learner has learnt.

        `expected` is the digest of that. Raises `Busy` where nothing was changed, and `RunFailed`.
        """
        config = self._config.member(parameters, self._mine.seed)

        def become(trainer: Trainer) -> None:
            if donor is not None and digest(donor) != expected:
                raise Busy("other weights arrived than were sent")
            episodes = sum(trainer.records.scores.episodes)
            member = {"generation": generation, "parameters": parameters, "episodes": episodes}
            if not trainer.adopt(config, member, donor):
                raise Busy("it stops, and its learner does not answer")
            self._state = member
            if donor is not None:
                self._fitness = None
            self._tell(trainer)
            trainer.records.event("adopted", generation=generation, copied=donor is not None, **parameters)

        self._ask(become)

    @ray.method(concurrency_group="look")
    def stop(self) -> None:
        """End soon, with a checkpoint."""
        self._stop.name = "pause"

    def _tell(self, trainer: Trainer) -> None:
        """To the controller and the records: what is told is whole, whoever asks when."""
        records, least = trainer.records, self._config.pbt.least_episodes
        self._status = status_of(self._state, trainer.counters.env_frames, records.scores, least, records.fps)
        self._told_at = time.monotonic()
        numbers = {f"pbt/{k}": v for k, v in self._state["parameters"].items() if not isinstance(v, str)}
        records.more = {"pbt/generation": float(self._state["generation"]), **numbers}
        if self._fitness is not None:
            records.more[FITNESS] = self._fitness

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
        """Between two steps of the loop: follow the orders there are."""
        if time.monotonic() - self._told_at > STATUS_EVERY_S:
            self._tell(trainer)
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
                order.done.set_exception(RunFailed(str(e)))
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
        own = str(folder.absolute())  # a cluster's processes live in another folder
        self._handle = made.options(num_cpus=0, scheduling_strategy=here).remote(config, own, birth, places)
        self.ended: ray.ObjectRef[str] = self._handle.run.remote()

    def status(self, fitness: float | None) -> "ray.ObjectRef[Status | None]":
        """See `_Member.status`."""
        return self._handle.status.remote(fitness)

    def state(self, generation: int) -> "ray.ObjectRef[dict[str, Any]]":
        """See `_Member.state`."""
        return self._handle.state.remote(generation)

    def adopt(
        self,
        generation: int,
        parameters: Parameters,
        donor: "ray.ObjectRef[dict[str, Any]] | None",
        expected: str | None,
    ) -> "ray.ObjectRef[None]":
        """See `_Member.adopt`."""
        return self._handle.adopt.remote(generation, parameters, donor, expected)

    def stop(self) -> None:
        """See `_Member.stop`."""
        self._handle.stop.remote()

    def kill(self) -> None:
        """End the process, and with it what it started."""
        ray.kill(self._handle)
