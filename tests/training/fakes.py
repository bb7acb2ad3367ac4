"""A port without Ray: remote processes that die, hang, become unreachable and come back, lost objects, and a clock.

Time passes only while the driver waits. Results arrive in the order in which calls end, and `wait` returns those
that have arrived in a random order.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import torch
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from impala_mi.actors.inference import InferenceLost
from impala_mi.actors.worker import WeightsLost
from impala_mi.config import Config
from impala_mi.learner.pipeline import UpdateResult
from impala_mi.learner.update import Counters
from impala_mi.types import Episode, Fault, RolloutInfo

TICK_S = 1e-3
"""Time that each wait takes."""
PLAY_S, LEARN_S, START_S = 1.0, 0.5, 2.0


class Ref:
    """Result of a call, or the error that it ended with."""

    def __init__(self, value: Any = None, done: bool = False) -> None:
        self.value, self.error, self.done = value, None, done
        self._callbacks: list[Callable[[Ref], None]] = []

    def end(self, value: Any = None, error: Exception | None = None) -> None:
        if not self.done:
            self.value, self.error, self.done = value, error, True
            for callback in self._callbacks:
                callback(self)

    def then(self, callback: Callable[["Ref"], None]) -> None:
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)


class Port:
    """See the module's docstring; `at` schedules what happens to the processes."""

    def __init__(self, seed: int = 0) -> None:
        self.time, self.nodes = 1000.0, {"node"}
        self._random, self._events, self._number = random.Random(seed), [], itertools.count()

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        """Do something so many seconds from now."""
        heapq.heappush(self._events, (self.time + seconds, next(self._number), action))

    def wait(self, refs, *, num_returns=1, timeout=None):
        assert 0 < num_returns <= len(refs) == len(set(map(id, refs))), "Ray refuses this"
        deadline = float("inf") if timeout is None else self.time + timeout
        self._run_until(self.time + TICK_S)
        while sum(ref.done for ref in refs) < num_returns and self.time < deadline:
            self._run_until(min(deadline, self._events[0][0] if self._events else deadline))
        done = [ref for ref in refs if ref.done]
        self._random.shuffle(done)
        done = done[:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def get(self, refs, *, timeout=None):
        if isinstance(refs, list):
            return [self.get(ref, timeout=timeout) for ref in refs]
        if not refs.done and not self.wait([refs], timeout=timeout)[0]:
            raise GetTimeoutError("no answer in time")
        if refs.error is not None:
            raise refs.error
        return refs.value

    def put(self, value):
        return Ref(value, done=True)

    def alive_nodes(self):
        return self.nodes

    def now(self):
        return self.time

    def sleep(self, seconds):
        self._run_until(self.time + seconds)

    def _run_until(self, time: float) -> None:
        assert time < float("inf"), "the driver waits for something that never comes"
        while self._events and self._events[0][0] <= time:
            at, _, action = heapq.heappop(self._events)
            self.time = max(self.time, at)
            action()
        self.time = max(self.time, time)


def lost_object() -> ObjectLostError:
    return ObjectLostError("ab" * 14, None, "")


class Process:
    """A process that answers calls in order of their ends, as long as it lives."""

    def __init__(self, port: Port, node: str = "node") -> None:
        self.port, self.node = port, node
        self.error: RayError | None = None
        self.hangs = self.killed = False
        self._open: list[Ref] = []

    def call(self, seconds: float, function: Callable[[], Any]) -> Ref:
        """Reference of what a call returns after so many seconds."""
        ref = Ref()
        if self.error is not None:
            ref.end(error=self.error)
            return ref
        self._open.append(ref)
        self.port.at(seconds, lambda: self._end(ref, function))
        return ref

    def _end(self, ref: Ref, function: Callable[[], Any]) -> None:
        if ref.done or self.hangs:
            return
        try:
            ref.end(function())
        except Exception as e:
            ref.end(error=RayTaskError("call", f"{type(e).__name__}: {e}", e))

    def die(self, error: RayError | None = None) -> None:
        """Fail all calls under way, and all that come."""
        self._fail(error or RayActorError(error_msg="The actor died unexpectedly."))

    def become_unavailable(self) -> None:
        """Fail as a process behind a broken connection does; `come_back` ends it."""
        self._fail(ActorUnavailableError("connection reset", b"0" * 16))

    def come_back(self) -> None:
        self.error = None

    def kill(self) -> None:
        self.killed = True
        self.die()

    def _fail(self, error: RayError) -> None:
        self.error = error
        pending, self._open = self._open, []
        for ref in pending:
            ref.end(error=error)


class Actor(Process):
    """Actor process: a rollout holds one episode of each of its levels."""

    def __init__(self, world: "World", config: Config, index: int, seed_epoch: Sequence[int]) -> None:
        super().__init__(world.port)
        self.world, self.index, self.seed_epochs = world, index, [tuple(seed_epoch)]
        self.version, self.rollouts, self.faults, self.workers = -1, 0, [], []
        self.play_s, self.fails = PLAY_S, None
        self.closed = False
        world.at_start(self)

    def unroll(self, weights: Ref, version: int, worker: Any = None) -> tuple[Ref, Ref]:
        data = Ref("transitions", done=True)

        def play() -> RolloutInfo:
            if self.fails is not None:
                raise self.fails
            if worker is not None and worker.lost:
                raise InferenceLost("the worker died")
            if worker is None and version != self.version:
                if weights.error is not None:
                    raise WeightsLost("All copies have been lost")
                self.version = version
            self.rollouts += 1
            self.workers.append(worker)
            seen = version if worker is not None else self.version
            return RolloutInfo(self.index, seen, [Episode(self.index % self.world.levels, 1.0, 10)])

        return self.call(self.play_s, play), data

    def start(self, seed_epoch: Sequence[int]) -> Ref:
        return self.call(0.01, lambda: self.seed_epochs.append(tuple(seed_epoch)))

    def placed(self) -> Ref:
        return self.call(START_S, lambda: self.node)

    def take_faults(self) -> Ref:
        def take() -> list[tuple[int, Fault]]:
            taken, self.faults = self.faults, []
            return taken

        return self.call(0.01, take)

    def close(self) -> Ref:
        return self.call(0.1, lambda: setattr(self, "closed", True))


class Rank(Process):
    """Learner rank: its only weight is the number of updates that it was trained by."""

    def __init__(self, world: "World", config: Config, rank: int) -> None:
        super().__init__(world.port)
        self.world, self.config, self.rank = world, config, rank
        self.weight, self.counters = 0.0, Counters()
        self.learn_s, self.answers, self.lags = LEARN_S, True, []
        self.group: list[Rank] = []
        self._last = Ref(done=True)

    def alive(self) -> Ref:
        return self.call(0.1, lambda: None) if self.world.resources else Ref()

    def address(self) -> Ref:
        return self.call(0.1, lambda: ("127.0.0.1", 1))

    def start(self, state: dict[str, Any] | None, address: Ref | None) -> tuple[Ref, Ref]:
        assert (address is None) == (len(self.group) == 1)
        self.world.started_from.append(state)
        return self._load(START_S, lambda: state)

    def load_member(self, state: Ref, learner: Any) -> tuple[Ref, Ref]:
        self.config = self.config.model_copy(update={"learner": learner})
        return self._load(0.1, lambda: state.value)

    def _load(self, seconds: float, state: Callable[[], dict[str, Any] | None]) -> tuple[Ref, Ref]:
        def load() -> UpdateResult:
            if (loaded := state()) is not None:
                self.weight = float(loaded["agent"]["w"])
                self.counters = Counters(**loaded["counters"])
            return UpdateResult(replace(self.counters), {}, True)

        return self.call(seconds, load), Ref({"w": self.weight}, done=True)

    def stage(self, number: int, versions: Sequence[int], rollouts: Sequence[Ref]) -> Ref:
        def stage() -> None:
            self.lags.append([self.counters.version - v for v in versions])
            for rollout in rollouts:
                if rollout.error is not None:
                    raise rollout.error

        return self.call(0.05, stage)

    def begin(self, number: int, staged: Sequence[Ref]) -> Ref:
        begun = Ref()

        def count(_: Ref) -> None:
            if all(ref.done for ref in staged):
                errors = [ref.error for ref in staged if ref.error is not None]
                begun.end(number, RayTaskError("begin", "", errors[0]) if errors else None)

        for ref in staged:
            ref.then(count)
        return begun

    def finish(self, begun: Ref) -> tuple[Ref, Ref]:
        result, weights, before = Ref(), Ref(), self._last
        self._last = result
        self._open.append(result)

        def learn() -> UpdateResult:
            if any(rank.error is not None for rank in self.group):
                raise RuntimeError("connection closed by peer")
            if self.world.learner_error is not None:
                raise self.world.learner_error
            self.weight += 1
            frames = self.config.steps_per_update
            c = self.counters
            self.counters = replace(
                c, updates=c.updates + 1, version=c.version + 1, agent_steps=c.agent_steps + frames,
                env_frames=c.env_frames + frames,
            )  # fmt: skip
            weights.end({"w": self.weight})
            return UpdateResult(replace(self.counters), {"loss/total": 1.0}, True)

        def after_both(_: Ref) -> None:
            if not (begun.done and before.done) or result.done:
                return
            if begun.error is not None:
                result.end(error=RayTaskError("finish", "", begun.error))
            elif self.answers:
                self.call(self.learn_s, learn).then(lambda ref: result.end(ref.value, ref.error))

        if self.error is not None:
            result.end(error=self.error)
        begun.then(after_both)
        before.then(after_both)
        return result, weights

    def hyperparameters(self) -> Ref:
        return self.call(0.01, lambda: self.config.learner)

    def learner_state(self) -> dict[str, Any]:
        return state_of(self.weight, self.counters)

    def state(self) -> Ref:
        answer = Ref()
        self._open.append(answer)
        if self.error is not None:
            answer.end(error=self.error)
        self._last.then(
            lambda _: self.call(0.02, self.learner_state).then(lambda ref: answer.end(ref.value, ref.error))
        )
        return answer

    def preview(self) -> Ref:
        return self.call(0.01, lambda: None)


def state_of(weight: float, counters: Counters) -> dict[str, Any]:
    """State of a learner with this weight."""
    return {
        "agent": {"w": torch.tensor(weight)},
        "optimizer": {"slots": {}, "steps": int(weight)},
        "counters": asdict(counters),
    }


class Inference:
    """Inference workers; `workers[i].lost` makes worker i fail."""

    def __init__(self, config: Config) -> None:
        self.workers = [SimpleNamespace(lost=False) for _ in range(config.inference.workers)]
        self.loaded: list[int] = []
        self.killed = False

    def worker_of(self, actor: int) -> Any:
        return self.workers[actor % len(self.workers)]

    def load(self, weights: Ref, version: int) -> None:
        self.loaded.append(version)

    def replace(self, actor: int, lost: Any, weights: Ref, version: int) -> int | None:
        i = actor % len(self.workers)
        if self.workers[i] is not lost:
            return None
        self.workers[i] = SimpleNamespace(lost=False)
        return i

    def kill(self) -> None:
        self.killed = True


class World:
    """Makes all processes of a run and remembers them, also those that were replaced."""

    def __init__(self, levels: int = 5, seed: int = 0) -> None:
        self.port, self.levels = Port(seed), levels
        self.actors: list[Actor] = []
        self.ranks: list[Rank] = []
        self.started_from: list[dict[str, Any] | None] = []
        """State from which each rank was started."""
        self.resources = True
        self.learner_error: Exception | None = None
        self.on_actor: Callable[[Actor], None] = lambda actor: None
        self.on_ranks: Callable[[list[Rank]], None] = lambda ranks: None

    def at_start(self, actor: Actor) -> None:
        self.actors.append(actor)
        self.on_actor(actor)

    def make_actor(self, config: Config, index: int, seed_epoch: Sequence[int]) -> Actor:
        return Actor(self, config, index, seed_epoch)

    def make_ranks(self, config: Config, placement: Any) -> list[Rank]:
        group = [Rank(self, config, rank) for rank in range(config.learner.size)]
        for rank in group:
            rank.group = group
        self.ranks += group
        self.on_ranks(group)
        return group

    def make_inference(self, config: Config, actors: int, placement: Any) -> Inference:
        self.inference = Inference(config)
        return self.inference

    def living(self, index: int) -> Actor:
        """The newest process of an actor."""
        return [actor for actor in self.actors if actor.index == index][-1]
