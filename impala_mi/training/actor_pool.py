"""The actors of a run and the processes that act for them: started, watched, replaced, given up.

An actor that dies or hands in nothing for too long is replaced, with new episodes and a fresh core's state: at once
the first time, later after a pause that doubles. One that dies again and again without handing in anything is given
up. One for which there is no room waits for it, so nodes may come and go; with too few actors the run ends.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from impala_mi.types import Fault, RolloutInfo, Transitions, Weights

BUDGET_S = 3600.0
"""Over which restarts count."""
LONGEST_PAUSE_S = 60.0
_CLOSE_S = 5.0
_LOOK_EVERY_S = 1.0
_AFTER_NODE_S = 2.0
DOUBT_S = 90.0
"""For which an actor that cannot be reached may come back; Ray needs half a minute to call a node dead."""

Event = Callable[..., None]
"""Takes a kind and details by name."""
MakeActor = Callable[[Config, int, Sequence[int]], ActorProcess]


class Budget:
    """So many deaths in an hour.

    Args:
        most: that are allowed.
        key: of the configuration, for the message.
    """

    def __init__(self, most: int, key: str) -> None:
        self._most, self._key, self._times = most, key, deque[float]()
        self.total = 0

    def spend(self, reason: str) -> None:
        """Count one; raises `GivenUp` where it is one too many."""
        now = time.monotonic()
        while self._times and now - self._times[0] > BUDGET_S:
            self._times.popleft()
        self._times.append(now)
        self.total += 1
        if len(self._times) > self._most:
            raise GivenUp(
                f"{len(self._times)} deaths in an hour, more than {self._key}={self._most}; the last: {reason}"
            )


@dataclass
class Slot:
    """An actor's place; another process plays there after a death."""

    index: int
    process: ActorProcess | None = None
    starts: int = 0
    node: str = ""
    """Where the process lives; empty until it does, and while that is in doubt."""
    doubted_since: float | None = None
    """When it could not be reached any more: its node may be gone, which takes Ray a while to find out."""
    nodes_lost: int = 0
    """In a row, before it came to life."""
    since: float = 0.0
    """When it was last given something to do or came to life."""
    worker: Any = None
    """That acts for it."""
    deaths: int = 0
    """In a row, without a hand-in between."""
    not_before: float = 0.0
    given_up: bool = False


@dataclass(frozen=True)
class RolloutRef:
    """What an actor hands in."""

    info: RolloutInfo
    data: ray.ObjectRef[Transitions]


class ActorPool:
    """See the module's docstring.

    Args:
        config: the run's configuration.
        suite: what is played.
        segment: tells the seeds of this start of the run from those of others.
        event: told of what happens.
        stopping: whether the run is ending, so that deaths do not matter.
        placement: of the processes that act for the actors, where inference is central.
        make: makes an actor from the configuration, its index and its segment.
    """

    def __init__(
        self,
        config: Config,
        suite: Suite,
        seed_epoch: tuple[int, int],
        event: Event,
        stopping: Callable[[], bool],
        placement: PlacementGroup | None,
        make: MakeActor = ActorProcess,
    ) -> None:
        self._config, self._suite, self._seed_epoch = config, suite, seed_epoch
        self._event, self._stopping, self._make = event, stopping, make
        self.assignment = assign_levels(config.actors, len(suite.levels))
        """Level index of each environment of each actor."""
        self.slots = [Slot(i) for i in range(len(self.assignment))]
        self._budget = Budget(config.actors.max_restarts, "actors.max_restarts")
        self._placing: dict[ray.ObjectRef[str], tuple[Slot, ActorProcess]] = {}
        self._playing: dict[ray.ObjectRef[RolloutInfo], tuple[Slot, ActorProcess, ray.ObjectRef[Transitions]]] = {}
        self._polls: dict[ray.ObjectRef[list[tuple[int, Fault]]], Slot] = {}
        self._ending: list[tuple[float, ray.ObjectRef[None], ActorProcess]] = []
        self._inference = None if placement is None else InferenceGroup(config, len(self.slots), placement)
        for slot in self.slots:
            self._start(slot)
        self._looked, self._enough_at = 0.0, time.monotonic()

    # -- work --------------------------------------------------------------------------------

    def idle(self) -> list[Slot]:
        """Those that live and have nothing to do."""
        busy = {id(slot) for slot, _, _ in self._playing.values()}
        return [slot for slot in self.slots if slot.node and id(slot) not in busy]

    def begun(self) -> Counter[int]:
        """Unrolls that are being played, by the first level of their actor."""
        return Counter(self.assignment[slot.index][0] for slot, _, _ in self._playing.values())

    def levels_alive(self) -> set[int]:
        """Levels that some living actor plays."""
        return {k for slot in self.slots if slot.node for k in self.assignment[slot.index]}

    def play(self, slot: Slot, weights: "ray.ObjectRef[Weights]", version: int) -> None:
        """Have an actor play one unroll in each environment with weights no older than these."""
        assert slot.process is not None
        slot.worker = self._inference.worker_of(slot.index) if self._inference is not None else None
        slot.since = time.monotonic()
        info, data = slot.process.unroll(weights, version, slot.worker)
        self._playing[info] = (slot, slot.process, data)

    def load(self, weights: "ray.ObjectRef[Weights]", version: int) -> None:
        """Have those that act for the actors take these weights."""
        self._newest = (weights, version)
        if self._inference is not None:
            self._inference.load(weights, version)

    def wait(self, others: Sequence[ray.ObjectRef[Any]], timeout: float) -> list[ray.ObjectRef[Any]]:
        """References for `take`, and of `others`: those that are done, or the first that is within `timeout` s."""
        waiting = [*self._playing, *self._placing, *others]
        if not waiting:
            time.sleep(min(timeout, 0.1))  # until an actor may be started again
            return []
        # Looking costs by the actor, so once for all that there are.
        done, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return done or ray.wait(waiting, timeout=timeout)[0]

    def take(self, ref: ray.ObjectRef[Any]) -> RolloutRef | None:
        """What an actor handed in; None where it came to life, or died and is replaced.

        Raises `TrainingError` where the run cannot go on.
        """
        if ref in self._placing:
            slot, process = self._placing.pop(ref)
            if process is slot.process:  # and not one that died
                self._take_place(slot, ref)
            return None
        slot, process, data = self._playing.pop(ref)
        try:
            info: RolloutInfo = ray.get(ref)
        except ray.exceptions.RayError as e:
            if process is slot.process:
                self._failed(slot, e)
            return None
        slot.deaths = 0
        return RolloutRef(info, data)

    def _take_place(self, slot: Slot, ref: ray.ObjectRef[str]) -> None:
        try:
            slot.node = ray.get(ref)
        except ray.exceptions.RayError as e:
            self._failed(slot, e)
            return
        slot.since, slot.doubted_since, slot.nodes_lost = time.monotonic(), None, 0
        if slot.starts > 1:
            self._event("actor_joined", actor=slot.index)

    def _failed(self, slot: Slot, error: ray.exceptions.RayError) -> None:
        """A call of a living or dead actor went wrong."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, InferenceLost):
            self._restart_inference(slot, str(cause))
        elif isinstance(cause, WeightsLost):
            self._event("weights_lost", actor=slot.index, error=str(cause))  # the learner's replacement has others
        elif isinstance(error, ray.exceptions.ActorUnavailableError):
            slot.node, slot.doubted_since = "", slot.doubted_since or time.monotonic()
        else:
            self._died(slot, error)

    # -- supervision -------------------------------------------------------------------------

    def begin_to_count(self) -> None:
        """Nobody looked for a while: too few actors count from now on."""
        self._enough_at = time.monotonic()

    def metrics(self) -> dict[str, float]:
        """How many there are."""
        return {
            "actors/alive": sum(bool(slot.node) for slot in self.slots),
            "actors/given_up": sum(slot.given_up for slot in self.slots),
            "actors/restarts": self._budget.total,
        }

    def look(self) -> None:
        """Replace what hangs, start what may be started again; raises `GivenUp` where too few are alive."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return
        self._looked = now
        limit = self._config.actors.timeout_s
        for ref, (slot, process, _) in list(self._playing.items()):
            # What was handed in meanwhile waits to be taken.
            if process is slot.process and now - slot.since > limit and not ray.wait([ref], timeout=0)[0]:
                self._playing.pop(ref)
                self._died(slot, TimeoutError(f"handed in nothing for actors.timeout_s={limit:g}"))
        placing = {id(slot) for slot, _ in self._placing.values()}
        for slot in self.slots:
            if slot.process is None:
                if not slot.given_up and now >= slot.not_before:
                    self._start(slot)
            elif slot.doubted_since is not None:
                if now - slot.doubted_since > DOUBT_S:
                    self._died(slot, TimeoutError(f"could not be reached for {DOUBT_S:g} s"))
                elif id(slot) not in placing:
                    self._placing[slot.process.placed()] = (slot, slot.process)
        self._bury(now)
        self._count_quorum(now)

    def poll(self, since_s: float, timeout: float = 0) -> Iterator[tuple[int, list[tuple[int, Fault]]]]:
        """Ask those that have played for so long for their faults; the answers there are by now, by actor."""
        asked = list(self._polls)
        for ref in ray.wait(asked, num_returns=len(asked), timeout=timeout)[0] if asked else []:
            slot = self._polls.pop(ref)
            with contextlib.suppress(ray.exceptions.RayError):  # a death is found out by the unroll
                yield slot.index, ray.get(ref)
        waiting, now = {id(slot) for slot in self._polls.values()}, time.monotonic()
        self._polls |= {
            process.take_faults(): slot
            for slot, process, _ in self._playing.values()
            if process is slot.process and now - slot.since >= since_s and id(slot) not in waiting
        }

    def start_anew(self, seed_epoch: tuple[int, int]) -> None:
        """New episodes everywhere, with the seeds of another segment."""
        self._seed_epoch = seed_epoch
        for slot in self.slots:
            slot.starts = 1
        ray.get([slot.process.start((*seed_epoch, 0)) for slot in self.slots if slot.process is not None])

    def close(self) -> None:
        """End every process, the games first."""
        processes = [slot.process for slot in self.slots if slot.process is not None]
        closing = [slot.process.close() for slot in self.slots if slot.process is not None and slot.node]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=20)
        for process in (*processes, *(process for _, _, process in self._ending)):
            with contextlib.suppress(ray.exceptions.RayError):
                process.kill()
        if self._inference is not None:
            self._inference.kill()

    def _start(self, slot: Slot) -> None:
        slot.process = self._make(self._config, slot.index, (*self._seed_epoch, slot.starts))
        slot.starts += 1
        slot.node, slot.doubted_since = "", None
        self._placing[slot.process.placed()] = (slot, slot.process)

    def _died(self, slot: Slot, error: Exception) -> None:
        """Bury an actor; its unfinished unrolls are lost."""
        if self._stopping():
            return
        if isinstance(cause := getattr(error, "cause", None), TrainingError):
            raise TrainingError(f"actor {slot.index}: {cause}")
        reason = reason_of(error)
        node_lost = self._with_its_node(slot, error)
        self._event("actor_died", actor=slot.index, error=reason, node_lost=node_lost)
        process, slot.process, slot.node = slot.process, None, ""
        if process is not None:
            self._ending.append((time.monotonic() + _CLOSE_S, process.close(), process))
        if node_lost:
            slot.not_before = time.monotonic() + _AFTER_NODE_S
            return
        slot.deaths += 1
        if slot.deaths >= self._config.actors.max_deaths_in_a_row:
            slot.given_up = True
            levels = sorted({self._suite.levels[k].name for k in self.assignment[slot.index]})
            self._event("actor_given_up", actor=slot.index, deaths=slot.deaths, levels=levels, error=reason)
        pause = 0.0 if slot.deaths == 1 else min(2.0 ** (slot.deaths - 2), LONGEST_PAUSE_S)
        slot.not_before = time.monotonic() + pause
        self._budget.spend(f"actor {slot.index}: {reason}")
        if not slot.given_up and slot.not_before <= time.monotonic():
            self._start(slot)

    def _with_its_node(self, slot: Slot, error: Exception) -> bool:
        """Whether an actor went with the node on which it lived, or on which it was to start."""
        if not isinstance(error, ray.exceptions.RayActorError) or error.actor_init_failed:
            return False
        if slot.node:
            return error.preempted or slot.node not in {n["NodeID"] for n in ray.nodes() if n["Alive"]}
        # It cannot be told from a death before the first answer: believed so often.
        slot.nodes_lost += 1
        return slot.nodes_lost < self._config.actors.max_deaths_in_a_row

    def _bury(self, now: float) -> None:
        """Kill the processes that have closed their games, or have had the time to."""
        left = []
        for limit, closing, process in self._ending:
            if now < limit and not ray.wait([closing], timeout=0)[0]:
                left.append((limit, closing, process))
                continue
            with contextlib.suppress(ray.exceptions.RayError):
                process.kill()
        self._ending = left

    def _count_quorum(self, now: float) -> None:
        actors, levels = self._config.actors, len(self._suite.levels)
        alive, quorum = sum(bool(slot.node) for slot in self.slots), actors.quorum(levels)
        hoped_for = sum(not slot.given_up for slot in self.slots)
        if alive >= quorum:
            self._enough_at = now
        if self._config.train.deterministic:
            quorum = len(self.slots)  # every update waits for every actor
        if hoped_for < quorum or now - self._enough_at > actors.quorum_s:
            why = f"{len(self.slots) - hoped_for} were given up" if hoped_for < quorum else (
                f"for actors.quorum_s={actors.quorum_s:g} s"
            )  # fmt: skip
            raise GivenUp(f"only {alive} of {len(self.slots)} actors are alive, fewer than {quorum}: {why}")

    def _restart_inference(self, slot: Slot, reason: str) -> None:
        """Put a new worker in the place of the one that was lost while it acted for an actor, if nobody has yet."""
        assert self._inference is not None
        if self._stopping():
            return
        worker = self._inference.replace(slot.index, slot.worker, *self._newest)
        if worker is not None:
            self._event("inference_died", worker=worker, error=reason)
            self._budget.spend(f"inference worker {worker}: {reason}")


def reason_of(error: Exception) -> str:
    """The last line of what went wrong."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[-1] if lines else repr(error)
