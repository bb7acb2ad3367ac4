"""Member of a population as a Ray process: the driver of its own run.

It lives on the controller's node, which has the population's folder. The controller's calls are carried out between
two steps of the training loop, so nothing is copied during an update.
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

from impala_mi.envs.base import Level, Suite
from impala_mi.envs.suites import make_suite
from impala_mi.errors import TrainingError
from impala_mi.host.signals import StopSignal
from impala_mi.nn.agent import meta_agent
from impala_mi.pbt.journal import FITNESS
from impala_mi.pbt.settings import Parameters, PopulationConfig
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.checkpoint import Checkpoint, digest
from impala_mi.runs.checkpoint_checks import is_count
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.metrics import LevelScores
from impala_mi.training.placement import Places
from impala_mi.training.resume_checks import check_resumable
from impala_mi.training.trainer import Trainer

T = TypeVar("T")

STATUS_EVERY_S = 0.5
"""Seconds between two updates of the status."""


class Busy(Exception):
    """The member refused a call and is unchanged: it stops, has stopped or has another generation."""


class RunFailed(Exception):
    """The run of the member ended during a call; its last checkpoint tells whether the call took effect."""


@dataclass(frozen=True)
class MemberInit:
    """Seed and first hyperparameters of a member."""

    seed: int
    parameters: Parameters


@dataclass(frozen=True)
class Status:
    """Progress of a member."""

    env_frames: int
    episodes: int
    """Episodes since the last decision, or since the start."""
    returns: dict[str, float]
    """Mean return of each level with enough episodes in the window."""
    generation: int
    parameters: Parameters
    fps: float


@dataclass
class _Call:
    function: Callable[[Trainer], Any]
    result: "Future[Any]"


def status_of(
    state: Mapping[str, Any], env_frames: int, scores: LevelScores, min_episodes: int, fps: float
) -> Status:
    """Status from the member's entry in checkpoints and its episodes."""
    episodes = sum(scores.episodes) - state["episodes"]
    returns = scores.mean_returns(min_episodes)
    return Status(env_frames, episodes, returns, state["generation"], state["parameters"], fps)


def load_member_checkpoint(config: PopulationConfig, suite: Suite, folder: RunFolder, seed: int) -> Checkpoint:
    """Last checkpoint from which a member can continue; those that are damaged are passed over with a warning.

    Raises `UserError` if there is none.
    """
    agent = meta_agent(config.agent, suite.spaces)

    def check(read: Checkpoint) -> None:
        state = read.run.get("member")
        if not isinstance(state, dict) or not all(is_count(state.get(key)) for key in ("generation", "episodes")):
            raise ValueError("no state as a member of a population")
        if not isinstance(state.get("parameters"), dict):
            raise ValueError("no hyperparameters of a member of a population")
        check_resumable(read, config.member(state["parameters"], seed), suite, agent)

    return checkpoints.load(folder.checkpoints, check=check)


def saved_status(config: PopulationConfig, levels: Sequence[Level], checkpoint: Checkpoint) -> Status:
    """Status of a member without a process, from its checkpoint."""
    scores = LevelScores(levels, config.train.score_episodes)
    scores.load_state(checkpoint.run["scores"])
    state, frames = checkpoint.run["member"], checkpoint.meta["env_frames"]
    return status_of(state, frames, scores, config.pbt.least_episodes, 0.0)


class _Member:
    def __init__(self, config: PopulationConfig, folder: str, init: MemberInit, places: Places) -> None:
        self._config, self._folder, self._places = config, RunFolder(Path(folder)), places
        self._stop, self._calls = StopSignal(), queue.Queue[_Call]()
        self._lock, self._open = threading.Lock(), True
        steps = checkpoints.steps(self._folder.checkpoints)
        self._suite = make_suite(config.env)  # a member differs from the population in its learner's settings
        self._resumed = load_member_checkpoint(config, self._suite, self._folder, init.seed) if steps else None
        # This dictionary is part of checkpoints; `episodes` counts those before the last decision.
        self._state: dict[str, Any] = {"generation": 0, "parameters": init.parameters, "episodes": 0}
        if self._resumed is not None:
            self._state = self._resumed.run["member"]
        self._run_config = config.member(self._state["parameters"], init.seed)
        self._status: Status | None = None
        self._fitness: float | None = None
        self._published_at = 0.0

    def run(self) -> Literal["done", "interrupted"]:
        """Train until the end or until `stop`, and leave a checkpoint."""
        try:
            with self._folder.locked():
                self._folder.save_config(self._run_config)
                self._forget_damaged()
                trainer = Trainer(
                    self._run_config, self._suite, self._folder, self._resumed,
                    lambda _: None, self._stop, between=self._serve_calls, places=self._places,
                )  # fmt: skip
                trainer.recorder.set_member(self._state, self._config.pbt.least_episodes)
                if self._resumed is None:  # TensorBoard shows only the first row
                    trainer.recorder.hparams(self._state["parameters"], FITNESS)
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
            self._reject_calls()
        return result.status

    def _forget_damaged(self) -> None:
        """Set aside the checkpoints that were passed over, so that they no longer count as the member's last."""
        if self._resumed is None:
            return
        if abandoned := checkpoints.forget_after(self._folder.checkpoints, self._resumed):
            self._folder.event("resumed", checkpoint=self._resumed.path.name, abandoned=abandoned)

    @ray.method(concurrency_group="status")
    def status(self, fitness: float | None) -> Status | None:
        """Latest status, or None before the first; `fitness` is the controller's value, for the records."""
        self._fitness = fitness
        return self._status

    @ray.method(concurrency_group="calls")
    def state(self, generation: int) -> dict[str, Any]:
        """State of the learner; raises `Busy` if the member has another generation or stops."""

        def read(trainer: Trainer) -> dict[str, Any]:
            if self._state["generation"] != generation:
                raise Busy(f"it has generation {self._state['generation']}, not {generation}")
            return trainer.state()

        return self._call(read)

    @ray.method(concurrency_group="calls")
    def load_member(
        self, generation: int, parameters: Parameters, donor: dict[str, Any] | None, expected: str | None
    ) -> None:
        """Start a generation with new hyperparameters and, if given, the state of a donor's learner.

        `expected` is the digest of that state. Raises `Busy` if nothing was changed, and `RunFailed`.
        """
        config = self._config.member(parameters, self._run_config.seed)

        def load(trainer: Trainer) -> None:
            if donor is not None and digest(donor) != expected:
                raise Busy("the weights that arrived differ from those sent")
            episodes = sum(trainer.recorder.scores.episodes)
            member = {"generation": generation, "parameters": parameters, "episodes": episodes}
            if not trainer.load_member(config, member, donor):
                raise Busy("it stops, and its learner does not answer")
            self._state = member
            if donor is not None:
                self._fitness = None
            self._publish(trainer)
            trainer.recorder.event("adopted", generation=generation, copied=donor is not None, **parameters)

        self._call(load)

    @ray.method(concurrency_group="status")
    def stop(self) -> None:
        """End the run soon, with a checkpoint."""
        self._stop.name = "pause"

    def _publish(self, trainer: Trainer) -> None:
        """Update the status for the controller, as one object, and the metrics for the records."""
        recorder, pbt = trainer.recorder, self._config.pbt
        frames = trainer.counters.env_frames
        self._status = status_of(self._state, frames, recorder.scores, pbt.least_episodes, recorder.fps)
        self._published_at = time.monotonic()
        numbers = {f"pbt/{k}": v for k, v in self._state["parameters"].items() if not isinstance(v, str)}
        fitness = {} if self._fitness is None else {FITNESS: self._fitness}
        recorder.set_extra_metrics({"pbt/generation": float(self._state["generation"]), **numbers, **fitness})

    def _call(self, function: Callable[[Trainer], T]) -> T:
        """Result of a function that the training loop runs between two steps; raises `Busy` if the loop ends."""
        call = _Call(function, Future())
        with self._lock:
            if not self._open or self._stop.name is not None:
                raise Busy("it has stopped")
            self._calls.put(call)
        result: T = call.result.result()
        return result

    def _serve_calls(self, trainer: Trainer) -> None:
        """Carry out the calls that wait, between two steps of the training loop."""
        if time.monotonic() - self._published_at > STATUS_EVERY_S:
            self._publish(trainer)
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            try:
                call.result.set_result(call.function(trainer))
            except Busy as e:
                call.result.set_exception(e)
            except BaseException as e:
                call.result.set_exception(RunFailed(str(e)))
                raise

    def _reject_calls(self) -> None:
        while True:
            try:
                self._calls.get_nowait().result.set_exception(Busy("it has stopped"))
            except queue.Empty:
                return


class MemberProcess:
    """Typed handle of a member's process, whose run begins at once in its `places`."""

    def __init__(self, config: PopulationConfig, folder: RunFolder, init: MemberInit, places: Places) -> None:
        self.places = places
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote
        member = remote(concurrency_groups={"status": 1, "calls": 2}, max_restarts=0)(_Member)
        path = str(folder.path.absolute())  # processes of a cluster have another current folder
        self._handle = member.options(num_cpus=0, scheduling_strategy=this_node).remote(config, path, init, places)
        self.ended: ray.ObjectRef[str] = self._handle.run.remote()

    def status(self, fitness: float | None) -> "ray.ObjectRef[Status | None]":
        """See `_Member.status`."""
        return self._handle.status.remote(fitness)

    def state(self, generation: int) -> "ray.ObjectRef[dict[str, Any]]":
        """See `_Member.state`."""
        return self._handle.state.remote(generation)

    def load_member(
        self,
        generation: int,
        parameters: Parameters,
        donor: "ray.ObjectRef[dict[str, Any]] | None",
        expected: str | None,
    ) -> "ray.ObjectRef[None]":
        """See `_Member.load_member`."""
        return self._handle.load_member.remote(generation, parameters, donor, expected)

    def stop(self) -> None:
        """See `_Member.stop`."""
        self._handle.stop.remote()

    def kill(self) -> None:
        """Kill the process and all that it started."""
        ray.kill(self._handle)
