"""The composition root: a configuration to a running system of actors and a learner.

The driver moves references, never arrays: actors hand in unrolls, batches of them go to the learner, the learner
publishes weights, and each actor is given the newest version with its next unroll. Everything is bounded: an actor
has one unroll in flight, and none starts another while two batches wait beside the one that the learner works on.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from impala_mi.cluster import running_ray  # before Ray is imported

# isort: split
import ray
from ray.util.placement_group import PlacementGroup

from impala_mi.actors.worker import ActorProcess
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.errors import GivenUp, TrainingError
from impala_mi.fleet import Budget, Fleet, HandIn, MakeActor, Slot, reason_of
from impala_mi.learner import checkpoint as checkpoints
from impala_mi.learner.checkpoint import Checkpoint
from impala_mi.learner.update import Counters
from impala_mi.learner.worker import LearnerDied, LearnerGroup, UnrollsLost, Update, place_learner
from impala_mi.metrics import LevelCounts, LevelScores, Means, MetricsWriter
from impala_mi.mirror import Mirror
from impala_mi.preflight import check
from impala_mi.rundir import RunFolder
from impala_mi.stop import StopSignal
from impala_mi.types import Fault, UnrollInfo

MakeLearner = Callable[[Config, dict[str, Any] | None, PlacementGroup], LearnerGroup]
Report = Callable[[Mapping[str, float]], None]

KEEP_EVERY_S = 10.0
"""How often the learner's state is kept in memory, for the case that it dies."""
RESCUE_S = 10.0
"""For which ranks that live are asked for theirs, which is newer."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    status: Literal["done", "interrupted"]
    counters: Counters
    checkpoint: Path
    score: float | None


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


@dataclass
class _Clock:
    """When things were last done."""

    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    kept: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Batch:
    """Hand-ins that the learner is at."""

    update: Update
    infos: list[UnrollInfo]


class Trainer:
    """The driver's loop; see the module's docstring."""

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
    ) -> None:
        self.config, self.suite, self.folder, self.stop = config, suite, folder, stop
        self._report = report
        self._scores = LevelScores(suite.levels, config.train.score_episodes)
        self._counts = LevelCounts(suite.levels)
        self._means = Means()
        self._time_before, self._discarded, self._starts = 0.0, 0, 0
        if resumed is not None:
            self._scores.load_state(resumed.run["scores"])
            self._counts.load_state(resumed.run.get("counts", self._counts.state()))  # older ones have none
            self._time_before = resumed.run["time_s"]
            self._discarded = resumed.run["discarded"]
            self._starts = resumed.run["starts"] + 1
        self._writer = MetricsWriter(folder.path, None if resumed is None else int(resumed.meta["env_frames"]))
        self._mirror = None if config.run.mirror is None else Mirror(config.run.mirror, folder.path)
        self._make_learner = make_learner
        self._placement = place_learner(config)
        self._learner = make_learner(config, None if resumed is None else resumed.learner, self._placement)
        self._kept = None if resumed is None else resumed.learner
        self._keeping: ray.ObjectRef[dict[str, Any]] | None = None
        self._learner_deaths = Budget(config.learner.max_restarts, "learner.max_restarts")
        # The number of the start tells the seeds of a resumed run from those before; in the deterministic mode
        # only the number of updates does, so that a resumed run repeats what an uninterrupted one does.
        begin = 0 if resumed is None else int(resumed.meta["updates"])
        segment = (begin, 0 if config.train.deterministic else self._starts)
        self._fleet = Fleet(config, suite, segment, self._event, lambda: stop.name is not None, make_actor)
        self._learnt = Counter[int]()  # hand-ins by the first level of their actor
        self._levels_alive: set[int] = set()
        self._ready: deque[HandIn] = deque()
        self._updating: deque[_Batch] = deque()
        # On a GPU the next batch is brought, and its work queued, while it computes; on CPUs that gained nothing.
        self._in_flight = 2 if config.learner.num_gpus else 1
        self._fps = 0.0

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train to the end or until stopped, and leave a checkpoint."""
        self._start_learner(lambda: None)
        self._fleet.begin_to_count()
        self._event("started", env_frames=self._counters.env_frames, updates=self._counters.updates)
        self._clock = _Clock()
        self._logged = self._counters_now()
        if self._counters.updates == 0:
            self._checkpoint()  # so that there is one to go on from, whatever happens first
        try:
            self._loop()
        except GivenUp:
            self._checkpoint()
            raise
        path = self._checkpoint()  # first: whoever stopped the run may not wait long
        for _ in range(2):  # the answers to the last question, and to one more
            self._poll(timeout=1)
        self._log()
        status: Literal["done", "interrupted"] = "done" if self.stop.name is None else "interrupted"
        self._event(status, env_frames=self._counters.env_frames, signal=self.stop.name)
        return Result(status, self._counters, path, self._scores.score())

    def _loop(self) -> None:
        step = self._lockstep if self.config.train.deterministic else self._step
        while not self._finished() and self.stop.name is None:
            step()
            now = time.monotonic()
            self._keep()
            if now - self._clock.logged >= self.config.train.log_every_s:
                self._log()
            if (
                not self.config.train.deterministic
                and now - self._clock.saved >= self.config.train.checkpoint_every_s
            ):
                self._checkpoint()

    def _finished(self) -> bool:
        limit = self.config.train.max_time_s
        late = limit is not None and self._time_s() >= limit
        return late or self._counters.env_frames >= self.config.train.env_frames

    def _step(self) -> None:
        """Give work, wait for something to be done, take it."""
        batch = self.config.unrolls_per_actor_batch
        if len(self._updating) < self._in_flight and len(self._ready) >= batch:
            self._submit()
        staged = max(0, len(self._updating) - 1)
        if len(self._ready) + staged * batch < 2 * batch:
            for slot in self._balanced():
                self._play(slot)
        updating = self._updating[0].update.ranks if self._updating else []
        done = ray.wait([*self._fleet.waiting(), *updating], timeout=0.5)[0]
        for ref in done:
            if ref not in updating and (hand_in := self._fleet.take(ref)) is not None:
                self._take_hand_in(hand_in)
        if updating and (any(ref in updating for ref in done) or self._learner.late(self._updating[0].update)):
            self._take_update()
        self._fleet.look()

    def _lockstep(self) -> None:
        """One update: every actor plays with the newest weights, in the order of the actors."""
        for _ in range(self.config.unrolls_per_actor_batch // len(self._fleet.slots)):
            handed_in: dict[int, HandIn] = {}
            while len(handed_in) < len(self._fleet.slots) and self.stop.name is None:
                self._fleet.look()
                for slot in self._fleet.idle():
                    if slot.index not in handed_in:
                        self._play(slot)
                for ref in ray.wait(self._fleet.waiting(), timeout=0.5)[0] if self._fleet.waiting() else []:
                    if (hand_in := self._fleet.take(ref)) is not None:
                        handed_in[hand_in.info.actor] = hand_in
            for actor in sorted(handed_in):
                self._take_hand_in(handed_in[actor])
        if self.stop.name is not None:
            return
        self._submit()
        self._drain()
        every = self.config.train.checkpoint_every_updates
        if every and self._counters.updates % every == 0 and not self._finished():
            self._checkpoint()
            self._fleet.start_anew((self._counters.updates, 0))

    # -- actors ------------------------------------------------------------------------------

    def _balanced(self) -> list[Slot]:
        """The idle actors that may play: all, or those whose level is not ahead of others that are played."""
        idle, per_level = self._fleet.idle(), self.config.actors.per_level
        if self.config.actors.balance != "frames" or per_level is None or not idle:
            return idle
        alive = self._fleet.levels_alive()
        if come := alive - self._levels_alive:  # they begin with the others and have nothing to catch up with
            least = min((self._learnt[k] for k in self._levels_alive & alive), default=0)
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
        return self._fleet.dealt[actor][0]

    def _play(self, slot: Slot) -> None:
        self._fleet.play(slot, self._weights, self._counters.version)

    def _take_hand_in(self, hand_in: HandIn) -> None:
        info = hand_in.info
        self._scores.add(info.episodes)
        self._means.add({f"time/actor_{k}_s": v for k, v in info.seconds.items()})
        self._take_upkeep(info)
        self._ready.append(hand_in)

    def _take_upkeep(self, info: UnrollInfo) -> None:
        for upkeep in info.upkeep:
            name = self.suite.levels[upkeep.level].name
            for seconds in upkeep.reset_s:
                self._means.add({f"level/{name}/reset_s": seconds, f"level/{name}/reset_s_max": seconds})
            self._take_faults(info.actor, [(upkeep.level, fault) for fault in upkeep.faults])
            self._counts.add(upkeep.level, upkeep.counts)

    def _take_faults(self, actor: int, faults: Sequence[tuple[int, Fault]]) -> None:
        for level, fault in faults:
            self._event("fault", level=self.suite.levels[level].name, actor=actor, **asdict(fault))
            self._counts.add(level, {"faults": 1})

    def _poll(self, timeout: float = 0) -> None:
        """Take the faults of unrolls that are not done."""
        for actor, faults in self._fleet.poll(timeout):
            self._take_faults(actor, faults)

    # -- learner -----------------------------------------------------------------------------

    def _submit(self) -> None:
        """Hand a batch to the learner, if enough unrolls are recent enough."""
        allowed = self.config.learner.max_policy_lag
        now = self._counters.version + len(self._updating)  # when it is this batch's turn
        recent = [r for r in self._ready if allowed is None or now - r.info.version <= allowed]
        self._discarded += len(self._ready) - len(recent)
        self._ready = deque(recent)
        if len(recent) < self.config.unrolls_per_actor_batch:
            return
        taken = [self._ready.popleft() for _ in range(self.config.unrolls_per_actor_batch)]
        infos = [hand_in.info for hand_in in taken]
        for info in infos:
            self._learnt[self._level(info.actor)] += 1
            for k in set(self._fleet.dealt[info.actor]):
                key = f"level/{self.suite.levels[k].name}/lag"
                self._means.add({f"{key}_mean": now - info.version, f"{key}_max": now - info.version})
        update = self._learner.update([info.version for info in infos], [hand_in.data for hand_in in taken])
        self._updating.append(_Batch(update, infos))

    def _drain(self) -> None:
        """Take all updates that are under way."""
        while self._updating:
            self._take_update()

    def _take_update(self) -> None:
        """Wait for the oldest update; where the learner died, put another in its place."""
        batch = self._updating[0]
        try:
            self._take(batch.update)
        except UnrollsLost as e:
            self._updating.popleft()
            self._event("unrolls_lost", error=str(e))
            return
        except LearnerDied as e:
            self._replace_learner(str(e))
            return
        self._updating.popleft()
        frames = self.config.learner.unroll_length * self.suite.action_repeat
        for info in batch.infos:
            for k, slots in Counter(self._fleet.dealt[info.actor]).items():
                self._counts.add(k, {"env_frames": slots * frames})

    def _take(self, update: Update) -> None:
        result = self._learner.result(update)
        self._counters = result.counters
        if result.published:
            self._weights = update.weights
            self._fleet.load(self._weights, self._counters.version)
        self._means.add(result.metrics)

    def _start_learner(self, meanwhile: Callable[[], None]) -> None:
        """Wait for a learner that was made; raises `LearnerDied`."""
        while (start := self._learner.started(wait_s=0.5)) is None:
            meanwhile()
        self._take(start)

    def _replace_learner(self, reason: str) -> None:
        """Go on from what a rank that lives holds in memory, or from what was kept; actors play on meanwhile."""
        began, lost = time.monotonic(), self._counters
        self._updating.clear()
        self._keeping = None
        if self.config.learner.size > 1 and (state := self._learner.rescue(RESCUE_S)) is not None:
            self._kept = state
        while True:
            self._event("learner_died", error=reason)
            self._learner.kill()
            try:
                self._learner_deaths.spend(reason)
                state = self._kept
                if state is not None:
                    # No version twice: those who have weights that are lost must take the next ones for newer.
                    version = 1 + max(lost.version, state["counters"]["version"])
                    state = state | {"counters": state["counters"] | {"version": version}}
                self._learner = self._make_learner(self.config, state, self._placement)
                self._start_learner(self._meanwhile)
                break
            except LearnerDied as e:
                reason = str(e)
            except TrainingError as e:
                if self._kept is not None:
                    self._save(self._kept)
                raise TrainingError(str(e)) from None  # there is no learner whose state could be saved
        self._logged = self._counters_now()
        self._clock.kept = time.monotonic()
        self._event(
            "learner_restarted",
            seconds=round(time.monotonic() - began, 2),
            env_frames=self._counters.env_frames,
            frames_lost=max(0, lost.env_frames - self._counters.env_frames),
        )

    def _meanwhile(self) -> None:
        """While the learner is replaced."""
        if self.stop.name is not None:
            raise TrainingError(f"{self.stop.name} while the learner was being replaced")
        self._fleet.look()

    # -- records -----------------------------------------------------------------------------

    def _time_s(self) -> float:
        return self._time_before + time.monotonic() - self._clock.started

    def _counters_now(self) -> tuple[float, int]:
        return self._time_s(), self._counters.env_frames

    def _log(self) -> None:
        """Write one record of what happened since the last."""
        time_s, frames = self._counters_now()
        before_s, before = self._logged
        self._poll()
        if frames == before and time_s - before_s < self.config.train.log_every_s:
            return
        if time_s - before_s >= 1:  # the last record can come at once after the one before
            self._fps = (frames - before) / (time_s - before_s)
        means = self._means.take()
        update_s = means.get("time/update_s", 0.0)
        per_update = self.config.learner.batch_size * self.config.learner.unroll_length * self.suite.action_repeat
        counters = asdict(self._counters)
        record = {
            "time_s": time_s,
            **{k: counters[k] for k in ("env_frames", "agent_steps", "updates")},
            "fps": self._fps,
            "learner_fps": per_update / update_s if update_s else 0.0,
            **self._fleet.metrics(),
            "learner/restarts": self._learner_deaths.total,
            "actors/discarded_unrolls": self._discarded,
            **means,
            **self._scores.metrics(),
            **self._counts.metrics(),
        }
        self._writer.write(record)
        self._report(record)
        self._logged = (time_s, frames)
        self._clock.logged = time.monotonic()

    def _checkpoint(self) -> Path:
        self._drain()
        return self._save(self._state())

    def _save(self, state: dict[str, Any]) -> Path:
        counters = Counters(**state["counters"])
        run = {
            "scores": self._scores.state(),
            "counts": self._counts.state(),
            "time_s": self._time_s(),
            "discarded": self._discarded,
            "starts": self._starts,
        }
        meta = {"env_frames": counters.env_frames, "updates": counters.updates, "score": self._scores.score()}
        path = checkpoints.save(self.folder.checkpoints, state, run, meta, self.config.train.keep_checkpoints)
        self._event("checkpoint", env_frames=counters.env_frames, path=path.name)
        if self._mirror is not None:
            self._mirrored(self._mirror.push())
        self._clock.saved = time.monotonic()
        return path

    def _keep(self) -> None:
        """Keep the learner's state in memory, from time to time."""
        if self._keeping is not None:
            if ray.wait([self._keeping], timeout=0)[0]:
                try:
                    self._kept = ray.get(self._keeping)
                    self._keeping = None
                except ray.exceptions.RayError as e:  # it died, perhaps while it had nothing to do
                    self._replace_learner(reason_of(e))
        elif time.monotonic() - self._clock.kept >= KEEP_EVERY_S:
            self._keeping, self._clock.kept = self._learner.state(), time.monotonic()

    def _state(self) -> dict[str, Any]:
        """The learner's, which is replaced where it died."""
        self._keeping = None
        while True:
            try:
                self._kept = state = ray.get(self._learner.state(), timeout=self.config.learner.timeout_s)
                return state
            except ray.exceptions.RayError as e:
                self._replace_learner(reason_of(e))

    def _event(self, kind: str, /, **details: Any) -> None:
        """Write down what happened, for people in TensorBoard too."""
        self.folder.event(kind, **details)
        self._writer.event(kind, details)

    def _mirrored(self, failed: Exception | None) -> None:
        if failed is not None:  # training goes on, and the next copy tries again
            self.folder.event("mirror_failed", error=f"{type(failed).__name__}: {failed}")

    def close(self) -> None:
        """End every process, the games first."""
        self._fleet.close()
        self._learner.kill()
        with contextlib.suppress(OSError):  # a full disk must not hide what came before it
            self._writer.close()
            if self._mirror is not None:
                self._mirrored(self._mirror.close())
