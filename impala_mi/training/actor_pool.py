"""The actors of a run and their processes: started, watched, replaced, given up.

An actor that dies or delivers no rollout for too long is replaced by a process with new episodes and an initial
recurrent state: at once after the first death, later after a back-off that doubles. An actor that dies several
times in a row without delivering a rollout is given up. An actor without free resources waits for them, so nodes
may join and leave; with too few actors alive the run ends.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from impala_mi.actors.inference import InferenceLost
from impala_mi.actors.inference_group import InferenceGroup
from impala_mi.actors.rollout import assign_levels
from impala_mi.actors.worker import ActorProcess, WeightsLost
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.errors import GivenUp, TrainingError
from impala_mi.host.backoff import backoff
from impala_mi.host.port import Port
from impala_mi.training.actor_slot import ActorSlot, Phase, RolloutRef
from impala_mi.training.ray_port import RAY
from impala_mi.training.restart_budget import ReportEvent, RestartBudget, reason_of
from impala_mi.types import Fault, Weights

LONGEST_PAUSE_S = 60.0
"""Longest back-off in seconds before an actor is started again."""
UNREACHABLE_S = 90.0
"""Seconds after which an unreachable actor counts as dead; Ray needs half a minute to declare a node dead."""
_CLOSE_S = 5.0
"""Seconds that a dead actor's process has to close its games before it is killed."""
_SUPERVISE_EVERY_S = 1.0
_AFTER_NODE_S = 2.0
"""Seconds before an actor whose node was lost is started elsewhere."""

MakeActor = Callable[[Config, int, Sequence[int]], ActorProcess]
"""Makes an actor's process from the configuration, the actor's index and its seed epoch."""


class ActorPool:
    """All actors of a run; see the module's docstring.

    Args:
        config: the run's configuration.
        suite: suite of levels.
        seed_epoch: the run's updates and starts so far, which give this start other seeds; the pool appends the
            starts of each actor.
        event: called with everything that happens to an actor.
        stopping: whether the run is ending, so that deaths do not matter.
        placement: resources of the inference workers if inference is central, else None.
        make_actor: makes an actor's process.
        make_inference: makes the inference workers.
        port: calls to remote processes, and the clock.
    """

    def __init__(
        self,
        config: Config,
        suite: Suite,
        seed_epoch: tuple[int, int],
        event: ReportEvent,
        stopping: Callable[[], bool],
        placement: PlacementGroup | None,
        make_actor: MakeActor = ActorProcess,
        make_inference: Callable[[Config, int, PlacementGroup], InferenceGroup] = InferenceGroup,
        port: Port = RAY,
    ) -> None:
        self._config, self._suite, self._seed_epoch, self._port = config, suite, seed_epoch, port
        self._event, self._stopping, self._make_actor = event, stopping, make_actor
        self.assignment = assign_levels(config.actors, len(suite.levels))
        """Level index of each environment of each actor."""
        self.actors = [ActorSlot(i) for i in range(len(self.assignment))]
        self._budget = RestartBudget(config.actors.max_restarts, "actors.max_restarts", port.now)
        self._answers: dict[Any, ActorSlot] = {}
        self._polls: dict[Any, ActorSlot] = {}
        self._closing: list[tuple[float, Any, ActorProcess]] = []
        self._newest: tuple[Any, int] | None = None
        self._inference = None if placement is None else make_inference(config, len(self.actors), placement)
        self._supervised_at, self._quorum_at = 0.0, port.now()
        for actor in self.actors:
            self._start(actor)

    # -- work --------------------------------------------------------------------------------

    def idle(self) -> list[ActorSlot]:
        """Actors that are alive and have nothing to do."""
        return [actor for actor in self.actors if actor.phase is Phase.IDLE]

    def in_flight(self) -> Counter[int]:
        """Number of rollouts in flight by the first level of their actor."""
        return Counter(self.assignment[a.index][0] for a in self.actors if a.phase is Phase.PLAYING)

    def levels_alive(self) -> set[int]:
        """Levels that at least one living actor plays."""
        return {k for actor in self.actors if actor.alive for k in self.assignment[actor.index]}

    def play(self, actor: ActorSlot, weights: "ray.ObjectRef[Weights]", version: int) -> None:
        """Have an idle actor play one unroll in each environment with weights no older than these."""
        assert actor.process is not None
        worker = None if self._inference is None else self._inference.worker_of(actor.index)
        info, data = actor.process.unroll(weights, version, worker)
        actor.enter(Phase.PLAYING, self._port.now(), answer=info, data=data, worker=worker)
        self._answers[info] = actor

    def publish(self, weights: "ray.ObjectRef[Weights]", version: int) -> None:
        """Send weights to the inference workers."""
        self._newest = (weights, version)
        if self._inference is not None:
            self._inference.load(weights, version)

    def wait(self, more_refs: Sequence[Any], timeout: float) -> list[Any]:
        """References with a result, of this pool (for `consume`) and of `more_refs`.

        Returns all that have a result now or, if there are none, the first within `timeout` seconds.
        """
        waiting = [*self._answers, *more_refs]
        if not waiting:
            self._port.sleep(min(timeout, 0.1))  # until the back-off of an actor ends
            return []
        # A wait costs time for each reference, so one wait collects all results.
        done, _ = self._port.wait(waiting, num_returns=len(waiting), timeout=0)
        return done or self._port.wait(waiting, timeout=timeout)[0]

    def consume(self, ref: Any) -> RolloutRef | None:
        """Take the result of an actor: its rollout, or None if it has started, or failed and is replaced.

        Raises `TrainingError` if the run cannot go on.
        """
        actor = self._answers.pop(ref, None)
        if actor is None:  # the answer of a process that was replaced
            return None
        actor.answer = None
        try:
            result = self._port.get(ref)
        except ray.exceptions.RayError as e:
            self._handle_error(actor, e)
            return None
        if actor.phase is Phase.PLAYING:
            assert actor.data is not None
            rollout = RolloutRef(result, actor.data)
            actor.enter(Phase.IDLE, self._port.now())
            actor.deaths = 0
            return rollout
        actor.enter(Phase.IDLE, self._port.now(), node=result)
        actor.nodes_lost = 0
        if actor.starts > 1:
            self._event("actor_joined", actor=actor.index)
        return None

    def _handle_error(self, actor: ActorSlot, error: ray.exceptions.RayError) -> None:
        """Decide what the error of a call says about the actor."""
        cause, now = getattr(error, "cause", None), self._port.now()
        if isinstance(cause, InferenceLost):
            self._restart_inference(actor, str(cause))
            actor.enter(Phase.IDLE, now)
        elif isinstance(cause, WeightsLost):
            self._event("weights_lost", actor=actor.index, error=str(cause))  # a new learner publishes others
            actor.enter(Phase.IDLE, now)
        elif not isinstance(error, ray.exceptions.ActorUnavailableError):
            self._handle_death(actor, error)
        elif actor.phase is not Phase.UNREACHABLE:
            actor.enter(Phase.UNREACHABLE, now, answer=None)

    # -- supervision -------------------------------------------------------------------------

    def reset_quorum_clock(self) -> None:
        """Restart the clock of too few actors, after a time in which nobody supervised them."""
        self._quorum_at = self._port.now()

    def metrics(self) -> dict[str, float]:
        """Number of actors alive and given up, and of restarts."""
        return {
            "actors/alive": sum(actor.alive for actor in self.actors),
            "actors/given_up": sum(actor.phase is Phase.GIVEN_UP for actor in self.actors),
            "actors/restarts": self._budget.total,
        }

    def supervise(self) -> None:
        """Replace actors that hang, start those whose back-off has ended; once a second at most.

        Raises `GivenUp` if too few actors are alive.
        """
        now = self._port.now()
        if now - self._supervised_at < _SUPERVISE_EVERY_S:
            return
        self._supervised_at = now
        for actor in self.actors:
            if actor.phase is Phase.PLAYING:
                self._check_timeout(actor, now)
            elif actor.phase is Phase.BACKING_OFF:
                if actor.retry_at is not None and now >= actor.retry_at:
                    self._start(actor)
            elif actor.phase is Phase.UNREACHABLE:
                if now - actor.since > UNREACHABLE_S:
                    self._handle_death(actor, TimeoutError(f"could not be reached for {UNREACHABLE_S:g} s"))
                elif actor.answer is None:
                    self._ask_node(actor)
        self._reap(now)
        self._check_quorum(now)

    def _check_timeout(self, actor: ActorSlot, now: float) -> None:
        limit = self._config.actors.timeout_s
        if actor.answer is None or now - actor.since <= limit:
            return
        if not self._port.wait([actor.answer], timeout=0)[0]:  # a result that has arrived waits for `consume`
            self._handle_death(actor, TimeoutError(f"delivered nothing for actors.timeout_s={limit:g}"))

    def poll_faults(self, since_s: float, timeout: float = 0) -> Iterator[tuple[int, list[tuple[int, Fault]]]]:
        """Answers to the last question for faults, by actor; then ask those that have played for `since_s` s."""
        asked = list(self._polls)
        for ref in self._port.wait(asked, num_returns=len(asked), timeout=timeout)[0] if asked else []:
            actor = self._polls.pop(ref)
            with contextlib.suppress(ray.exceptions.RayError):  # the rollout in flight reports a death
                yield actor.index, self._port.get(ref)
        waiting, now = {actor.index for actor in self._polls.values()}, self._port.now()
        for actor in self.actors:
            if actor.phase is Phase.PLAYING and now - actor.since >= since_s and actor.index not in waiting:
                assert actor.process is not None
                self._polls[actor.process.take_faults()] = actor

    def restart_episodes(self, seed_epoch: tuple[int, int]) -> None:
        """Start new episodes everywhere, with the seeds of another epoch.

        An actor that cannot be reached is replaced. Raises `TrainingError` if the run cannot go on.
        """
        self._seed_epoch = seed_epoch
        for actor in self.actors:
            actor.starts = 1
        started = [(a, a.process.start((*seed_epoch, 0))) for a in self.actors if a.process is not None]
        for actor, ref in started:
            try:
                self._port.get(ref)
            except ray.exceptions.RayError as e:
                self._handle_death(actor, e)

    def close(self) -> None:
        """End every process; actors close their games first."""
        processes = [actor.process for actor in self.actors if actor.process is not None]
        closing = [actor.process.close() for actor in self.actors if actor.process is not None and actor.alive]
        if closing:
            self._port.wait(closing, num_returns=len(closing), timeout=20)
        for process in (*processes, *(process for _, _, process in self._closing)):
            with contextlib.suppress(ray.exceptions.RayError):
                process.kill()
        if self._inference is not None:
            self._inference.kill()

    def _start(self, actor: ActorSlot) -> None:
        process = self._make_actor(self._config, actor.index, (*self._seed_epoch, actor.starts))
        actor.starts += 1
        actor.enter(Phase.STARTING, self._port.now(), process=process)
        self._ask_node(actor)

    def _ask_node(self, actor: ActorSlot) -> None:
        """Ask an actor on which node it lives, which it answers once it has started."""
        assert actor.process is not None
        actor.answer = actor.process.placed()
        self._answers[actor.answer] = actor

    def _handle_death(self, actor: ActorSlot, error: Exception) -> None:
        """Record a death, and start the actor again now or later, or give it up; its rollout in flight is lost."""
        if self._stopping():
            return
        if isinstance(cause := getattr(error, "cause", None), TrainingError):
            raise TrainingError(f"actor {actor.index}: {cause}")
        reason, now = reason_of(error), self._port.now()
        node_lost = self._node_lost(actor, error)
        self._event("actor_died", actor=actor.index, error=reason, node_lost=node_lost)
        self._answers.pop(actor.answer, None)
        assert actor.process is not None
        self._closing.append((now + _CLOSE_S, actor.process.close(), actor.process))
        if node_lost:
            actor.enter(Phase.BACKING_OFF, now, retry_at=now + _AFTER_NODE_S)
            return
        actor.deaths += 1
        if actor.deaths >= self._config.actors.max_deaths_in_a_row:
            actor.enter(Phase.GIVEN_UP, now)
            levels = sorted({self._suite.levels[k].name for k in self.assignment[actor.index]})
            self._event("actor_given_up", actor=actor.index, deaths=actor.deaths, levels=levels, error=reason)
        else:
            actor.enter(Phase.BACKING_OFF, now, retry_at=now + backoff(actor.deaths, LONGEST_PAUSE_S))
        self._budget.spend(f"actor {actor.index}: {reason}")
        if actor.retry_at is not None and actor.retry_at <= now:
            self._start(actor)

    def _node_lost(self, actor: ActorSlot, error: Exception) -> bool:
        """Whether an actor died because the node on which it lived or was to start is lost."""
        if not isinstance(error, ray.exceptions.RayActorError) or error.actor_init_failed:
            return False
        if actor.node is not None:
            return error.preempted or actor.node not in self._port.alive_nodes()
        # Before its first answer a lost node looks like a death; it is taken for a lost node a few times.
        actor.nodes_lost += 1
        return actor.nodes_lost < self._config.actors.max_deaths_in_a_row

    def _reap(self, now: float) -> None:
        """Kill the processes of dead actors that have closed their games, or have had the time to."""
        closing = []
        for deadline, closed, process in self._closing:
            if now < deadline and not self._port.wait([closed], timeout=0)[0]:
                closing.append((deadline, closed, process))
                continue
            with contextlib.suppress(ray.exceptions.RayError):
                process.kill()
        self._closing = closing

    def _check_quorum(self, now: float) -> None:
        actors, total = self._config.actors, len(self.actors)
        alive, quorum = sum(actor.alive for actor in self.actors), actors.quorum(len(self._suite.levels))
        available = sum(actor.phase is not Phase.GIVEN_UP for actor in self.actors)
        if alive >= quorum:
            self._quorum_at = now
        if self._config.train.deterministic:
            quorum = total  # every update waits for every actor
        if available < quorum:
            why = f"{total - available} were given up"
        elif now - self._quorum_at > actors.quorum_s:
            why = f"for actors.quorum_s={actors.quorum_s:g} s"
        else:
            return
        raise GivenUp(f"only {alive} of {total} actors are alive, fewer than {quorum}: {why}")

    def _restart_inference(self, actor: ActorSlot, reason: str) -> None:
        """Replace the inference worker that was lost while it acted for an actor, unless that was done already."""
        assert self._inference is not None
        assert self._newest is not None
        if self._stopping():
            return
        worker = self._inference.replace(actor.index, actor.worker, *self._newest)
        if worker is not None:
            self._event("inference_died", worker=worker, error=reason)
            self._budget.spend(f"inference worker {worker}: {reason}")
