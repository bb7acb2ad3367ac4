"""The composition root: a configuration to a running system of actors and a learner.

The driver moves references, never arrays: actors hand in unrolls, batches of them go to the learner, the learner
publishes weights, and each actor is given the newest version with its next unroll. Everything is bounded: an actor
has one unroll in flight, and none starts another while two batches wait beside the one that the learner works on.
"""

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray
from ray.util.placement_group import PlacementGroup

from impala_mi.actors.worker import ActorProcess
from impala_mi.config import Config, LearnerConfig
from impala_mi.envs.base import Suite
from impala_mi.errors import GivenUp, TrainingError
from impala_mi.host.signals import StopSignal
from impala_mi.learner.group import LearnerDied, LearnerGroup, RolloutsLost, Update
from impala_mi.learner.update import Counters
from impala_mi.runs.checkpoint import Checkpoint, digest
from impala_mi.runs.folder import RunFolder
from impala_mi.training.actor_pool import ActorPool, Budget, MakeActor, RolloutRef, Slot, reason_of
from impala_mi.training.placement import Places, place
from impala_mi.training.preflight import check
from impala_mi.training.recorder import Records, Report
from impala_mi.types import RolloutInfo

MakeLearner = Callable[[Config, dict[str, Any] | None, PlacementGroup], LearnerGroup]
IN_FLIGHT = 2
"""Updates that the learner is asked for at once: it brings one batch while it learns from another."""
KEEP_EVERY_S = 10.0
"""How often the learner's state is kept in memory, for the case that it dies."""
CATCH_UP = 50
"""Hand-ins of an actor that a level makes up for which was not played for a while, when frames are balanced."""
STOP_S = 20.0
"""For which a run that is to stop waits for each update under way; then what was kept is saved."""
POLL_S = 5.0
"""For which an unroll has been played when its faults are asked for before it is handed in."""
RESCUE_S = 10.0
"""For which ranks that live are asked for theirs, which is newer."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    status: Literal["done", "interrupted"]
    counters: Counters
    checkpoint: Path
    score: float | None

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return self.checkpoint.parent.parent


def train(config: Config, folder: RunFolder, resumed: Checkpoint | None, report: Report) -> Result:
    """Train until `train.env_frames`, from the start or from a checkpoint.

    `report` gets every record that is logged. Raises `TrainingError` where training cannot go on.
    """
    suite = check(config)
    with StopSignal().installed() as stop, running_ray(config, suite):
        stop.install()
        trainer = Trainer(config, suite, folder, resumed, report, stop)
        try:
            return trainer.run()
        except (TrainingError, OSError) as e:
            message = str(e) if isinstance(e, TrainingError) else f"cannot write to {folder.path}: {e}"
            with contextlib.suppress(OSError):
                folder.event("failed", error=message)
            raise TrainingError(f"{message}; the last checkpoint is kept: impala-mi resume {folder.path}") from None
        finally:
            trainer.close()


@dataclass(frozen=True)
class _Batch:
    """Hand-ins that the learner is at."""

    update: Update
    infos: list[RolloutInfo]


class Trainer:
    """The driver's loop; see the module's docstring.

    `between` is called between its steps; `places` is its room, where that is not to be asked for.
    """

    def __init__(
        self,
        config: Config,
        suite: Suite,
        folder: RunFolder,
        resumed: Checkpoint | None,
        report: Report,
        stop: StopSignal,
        make_actor: MakeActor = ActorProcess,
        make_learner: MakeLearner = LearnerGroup,
        between: Callable[["Trainer"], None] = lambda _: None,
        places: Places | None = None,
    ) -> None:
        self.config, self.suite, self.stop = config, suite, stop
        self._folder, self._between = folder, between
        self.records = Records(config, suite, folder, resumed, report)
        self._make_learner = make_learner
        [self._places] = place(config) if places is None else [places]
        self._learner = make_learner(config, None if resumed is None else resumed.learner, self._places.learner)
        self._kept = None if resumed is None else resumed.learner
        self.counters = Counters() if resumed is None else Counters(**resumed.learner["counters"])
        self._keeping: ray.ObjectRef[dict[str, Any]] | None = None
        self._kept_at = time.monotonic()
        self._learner_deaths = Budget(config.learner.max_restarts, "learner.max_restarts")
        # The number of the start tells the seeds of a resumed run from those before; in the deterministic mode
        # only the number of updates does, so that a resumed run repeats what an uninterrupted one does.
        begin = 0 if resumed is None else int(resumed.meta["updates"])
        seed_epoch = (begin, 0 if config.train.deterministic else self.records.starts)
        stopping, inference = (lambda: stop.name is not None), self._places.inference
        self._fleet = ActorPool(config, suite, seed_epoch, self.records.event, stopping, inference, make_actor)
        self._learnt = Counter[int]()  # hand-ins by the first level of their actor
        self._levels_alive: set[int] = set()
        self._ready: deque[RolloutRef] = deque()
        self._oldest = 0  # version of the weights whose unrolls are still wanted
        self._updating: deque[_Batch] = deque()

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train to the end or until stopped, and leave a checkpoint."""
        try:
            self._start_learner(lambda: None)
        except LearnerDied as e:
            self._replace_learner(str(e))
        self._fleet.begin_to_count()
        self.records.event("started", env_frames=self.counters.env_frames, updates=self.counters.updates)
        self.records.start(self.counters.env_frames)
        if self.counters.updates == 0:
            self._checkpoint()  # so that there is one to go on from, whatever happens first
        try:
            self._loop()
        except GivenUp:
            self._checkpoint()
            raise
        path = self._checkpoint()  # first: whoever stopped the run may not wait long
        for _ in range(2):  # the answers to the last question, and to one more
            self._poll(since_s=0, timeout=1)
        self._log()
        status: Literal["done", "interrupted"] = "done" if self.stop.name is None else "interrupted"
        self.records.event(status, env_frames=self.counters.env_frames, signal=self.stop.name)
        return Result(status, self.counters, path, self.records.score())

    def _loop(self) -> None:
        train = self.config.train
        step = self._lockstep if train.deterministic else self._step
        while not self._finished() and self.stop.name is None:
            step()
            self._keep()
            self._between(self)
            now = time.monotonic()
            if now - self.records.logged_at >= train.log_every_s:
                self._log()
            if not train.deterministic and now - self.records.saved_at >= train.checkpoint_every_s:
                self._checkpoint()

    def _finished(self) -> bool:
        limit = self.config.train.max_time_s
        late = limit is not None and self.records.time_s() >= limit
        return late or self.counters.env_frames >= self.config.train.env_frames

    def _enough(self) -> bool:
        """Whether the updates under way end the run."""
        frames = len(self._updating) * self.config.steps_per_update * self.suite.action_repeat
        return self.counters.env_frames + frames >= self.config.train.env_frames

    def _step(self) -> None:
        """Give work, wait for something to be done, take it."""
        batch = self.config.rollouts_per_batch
        if len(self._updating) < IN_FLIGHT and len(self._ready) >= batch and not self._enough():
            self._submit()
        staged = max(0, len(self._updating) - 1)
        if len(self._ready) + staged * batch < 2 * batch:
            for slot in self._balanced():
                self._play(slot)
        update = self._updating[0].update if self._updating else None
        pending = [] if update is None else self._learner.pending(update)
        done = self._fleet.wait(pending, 0.5 if pending or update is None else 0)
        for ref in done:
            if ref not in pending and (hand_in := self._fleet.take(ref)) is not None:
                self._take_hand_in(hand_in)
        # Some rank answered, perhaps that it failed; others may still be at it.
        if update is not None and (
            len(pending) < len(update.ranks) or not set(done).isdisjoint(pending) or self._learner.late(update)
        ):
            self._take_update(wait_s=0)
        self._fleet.look()

    def _lockstep(self) -> None:
        """One update: every actor plays with the newest weights, in the order of the actors."""
        for _ in range(self.config.rollouts_per_batch // len(self._fleet.slots)):
            handed_in: dict[int, RolloutRef] = {}
            while len(handed_in) < len(self._fleet.slots) and self.stop.name is None:
                self._fleet.look()
                for slot in self._fleet.idle():
                    if slot.index not in handed_in:
                        self._play(slot)
                for ref in self._fleet.wait([], timeout=0.5):
                    if (hand_in := self._fleet.take(ref)) is not None:
                        handed_in[hand_in.info.actor] = hand_in
            for actor in sorted(handed_in):
                self._take_hand_in(handed_in[actor])
        if self.stop.name is not None:
            return
        self._submit()
        self._drain()
        every = self.config.train.checkpoint_every_updates
        if every and self.counters.updates % every == 0 and not self._finished():
            self._checkpoint()
            self._fleet.start_anew((self.counters.updates, 0))

    # -- actors ------------------------------------------------------------------------------

    def _balanced(self) -> list[Slot]:
        """The idle actors that may play: all, or those whose level is not ahead of others that are played."""
        idle, per_level = self._fleet.idle(), self.config.actors.per_level
        if self.config.actors.balance != "frames" or per_level is None or not idle:
            return idle
        alive = self._fleet.levels_alive()
        if come := alive - self._levels_alive:  # after an hour without a node the others must not wait for an hour
            least = min((self._learnt[k] for k in self._levels_alive & alive), default=0) - CATCH_UP * per_level
            self._learnt.update({k: max(0, least - self._learnt[k]) for k in come})
        self._levels_alive = alive
        begun = self._learnt.copy()
        begun.update(self._level(hand_in.info.actor) for hand_in in self._ready)
        begun.update(self._fleet.begun())
        least, allowed = min(begun[k] for k in alive), []
        for slot in idle:
            level = self._level(slot.index)
            if begun[level] < least + per_level:
                begun[level] += 1
                allowed.append(slot)
        return allowed

    def _level(self, actor: int) -> int:
        return self._fleet.assignment[actor][0]

    def _play(self, slot: Slot) -> None:
        self._fleet.play(slot, self._weights, self.counters.version)

    def _take_hand_in(self, hand_in: RolloutRef) -> None:
        wanted = hand_in.info.version >= self._oldest
        self.records.take(hand_in.info, scored=wanted)
        if wanted:
            self._ready.append(hand_in)
        else:
            self.records.discarded += 1

    def _poll(self, since_s: float = POLL_S, timeout: float = 0) -> None:
        """Take the faults of unrolls that have been played for so long and are not done."""
        for actor, faults in self._fleet.poll(since_s, timeout):
            self.records.take_faults(actor, faults)

    # -- learner -----------------------------------------------------------------------------

    def _submit(self) -> None:
        """Hand a batch to the learner, if enough unrolls are recent enough."""
        allowed = self.config.learner.max_policy_lag
        now = self.counters.version + len(self._updating)  # when it is this batch's turn
        recent = [r for r in self._ready if allowed is None or now - r.info.version <= allowed]
        self.records.discarded += len(self._ready) - len(recent)
        self._ready = deque(recent)
        if len(recent) < self.config.rollouts_per_batch:
            return
        taken = [self._ready.popleft() for _ in range(self.config.rollouts_per_batch)]
        infos = [hand_in.info for hand_in in taken]
        for info in infos:
            self._learnt[self._level(info.actor)] += 1
        update = self._learner.update([info.version for info in infos], [hand_in.data for hand_in in taken])
        self._updating.append(_Batch(update, infos))

    def _drain(self) -> bool:
        """Take all updates that are under way; False where the run is to stop and the learner does not answer."""
        stopped_at = math.inf
        while left := len(self._updating):
            self._take_update(wait_s=0.5)
            if self.stop.name is not None:
                stopped_at = min(stopped_at, time.monotonic())
            if len(self._updating) < left:  # the next has as long
                stopped_at = math.inf
            if time.monotonic() - stopped_at > STOP_S:
                return False
        return True

    def _take_update(self, wait_s: float) -> None:
        """Take the oldest update, if it is done by then; where the learner died, put another in its place."""
        batch, version = self._updating[0], self.counters.version
        try:
            if not self._take(batch.update, wait_s):
                return
        except RolloutsLost as e:
            self._updating.popleft()
            self.records.event("unrolls_lost", error=str(e))
            return
        except LearnerDied as e:
            self._replace_learner(str(e))
            return
        self._updating.popleft()
        for info in batch.infos:
            self.records.learnt(self._fleet.assignment[info.actor])
            self.records.take_lag(version - info.version, self._fleet.assignment[info.actor])

    def _take(self, update: Update, wait_s: float = math.inf) -> bool:
        """Whether it is done."""
        if (result := self._learner.result(update, wait_s)) is None:
            return False
        self.counters = result.counters
        if result.published:
            self._weights = update.weights
            self._fleet.load(self._weights, self.counters.version)
        self.records.means.add(result.metrics)
        return True

    def _start_learner(self, meanwhile: Callable[[], None]) -> None:
        """Wait for a learner that was made; raises `LearnerDied`."""
        while (start := self._learner.started(wait_s=0.5)) is None:
            meanwhile()
        self._take(start)

    def _replace_learner(self, reason: str) -> None:
        """Go on from what a rank that lives holds in memory, or from what was kept; actors play on meanwhile."""
        began, lost = time.monotonic(), self.counters
        self._updating.clear()
        self._keeping = None
        if self.config.learner.size > 1 and (state := self._learner.rescue(RESCUE_S)) is not None:
            self._kept = state
        while True:
            self.records.event("learner_died", error=reason)
            self._learner.kill()
            try:
                self._learner_deaths.spend(reason)
                state = self._kept
                if state is not None:
                    # No version twice: those who have weights that are lost must take the next ones for newer.
                    version = 1 + max(lost.version, state["counters"]["version"])
                    state = state | {"counters": state["counters"] | {"version": version}}
                self._learner = self._make_learner(self.config, state, self._places.learner)
                self._start_learner(self._meanwhile)
                break
            except LearnerDied as e:
                reason = str(e)
            except TrainingError as e:
                if self._kept is not None:
                    self.records.save(self._kept)
                raise TrainingError(str(e)) from None  # there is no learner whose state could be saved
        self.records.rewind(self.counters.env_frames)
        self._kept_at = time.monotonic()
        self.records.event(
            "learner_restarted",
            seconds=round(time.monotonic() - began, 2),
            env_frames=self.counters.env_frames,
            frames_lost=max(0, lost.env_frames - self.counters.env_frames),
        )

    def _meanwhile(self) -> None:
        """While the learner is replaced."""
        if self.stop.name is not None:
            raise TrainingError(f"{self.stop.name} while the learner was being replaced")
        self._fleet.look()

    # -- populations -------------------------------------------------------------------------

    def adopt(self, config: Config, member: dict[str, Any], donor: dict[str, Any] | None) -> bool:
        """Become another member of a population, between two updates.

        With the learner's settings of `config` and, where given, what another's learner has learnt; checkpoints say
        what it is from then on (`member`), and one is left. The actors play on; what older weights played is
        discarded. False where the run is to stop and nothing was changed. Raises `TrainingError` where the learner
        does not hold what it was given.
        """
        if not self._drain():
            return False
        state = self.state()
        if donor is not None:
            mine, theirs = Counters(**state["counters"]), Counters(**donor["counters"])
            ahead = theirs.agent_steps + theirs.schedule_ahead - mine.agent_steps
            counters = asdict(replace(mine, version=mine.version + 1, schedule_ahead=ahead))
            state = state | {"agent": donor["agent"], "optimizer": donor["optimizer"], "counters": counters}
            self._oldest = mine.version + 1
            self.records.discarded += len(self._ready)
            self._ready.clear()
            self.records.scores.forget()
        # All at once, and first: a learner that dies now is replaced with these, and saved as these.
        self.config, self._kept, self.records.member = config, state, member
        try:
            self._take(self._learner.adopt(config, state))
        except LearnerDied as e:
            self._replace_learner(str(e))
        held = self.state()
        if digest(held) != digest(state) or any(one != config.learner for one in self._settings()):
            raise TrainingError("the learner does not hold the weights and settings that it was given")
        self._folder.write_config(config)
        self.records.save(held)
        return True

    def _settings(self) -> list[LearnerConfig]:
        """In force at each rank."""
        while True:
            try:
                return ray.get(self._learner.settings(), timeout=self.config.learner.timeout_s)
            except ray.exceptions.RayError as e:
                self._replace_learner(reason_of(e))

    # -- records -----------------------------------------------------------------------------

    def _log(self) -> None:
        self._poll()
        deaths = {"learner/restarts": self._learner_deaths.total}
        self.records.log(self.counters, self._fleet.metrics() | deaths)

    def _checkpoint(self) -> Path:
        drained = self._drain()
        state = self.state() if drained or self._kept is None else self._kept
        return self.records.save(state, self._learner.sample if drained else lambda: None)

    def _keep(self) -> None:
        """Keep the learner's state in memory, from time to time."""
        if self._keeping is not None:
            if ray.wait([self._keeping], timeout=0)[0]:
                try:
                    self._kept = ray.get(self._keeping)
                    self._keeping = None
                except ray.exceptions.RayError as e:  # it died, perhaps while it had nothing to do
                    self._replace_learner(reason_of(e))
        elif time.monotonic() - self._kept_at >= KEEP_EVERY_S:
            self._keeping, self._kept_at = self._learner.state(), time.monotonic()

    def state(self) -> dict[str, Any]:
        """The learner's, which is replaced where it died."""
        self._keeping = None
        while True:
            try:
                self._kept = state = ray.get(self._learner.state(), timeout=self.config.learner.timeout_s)
                return state
            except ray.exceptions.RayError as e:
                self._replace_learner(reason_of(e))

    def close(self) -> None:
        """End every process, the games first."""
        self._fleet.close()
        self._learner.kill()
        self.records.close()
