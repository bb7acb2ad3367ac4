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
from typing import Any, Literal, TypeVar

from impala_mi.cluster import running_ray  # before Ray is imported

# isort: split
import ray

from impala_mi.actors.inference import InferenceLost
from impala_mi.actors.rollout import deal_levels
from impala_mi.actors.worker import ActorProcess, InferenceGroup
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.errors import TrainingError
from impala_mi.learner import checkpoint as checkpoints
from impala_mi.learner.checkpoint import Checkpoint
from impala_mi.learner.update import Counters
from impala_mi.learner.worker import LearnerProcess, UpdateResult
from impala_mi.metrics import LevelCounts, LevelScores, Means, MetricsWriter
from impala_mi.preflight import check
from impala_mi.rundir import RunFolder
from impala_mi.stop import StopSignal
from impala_mi.types import Fault, Transitions, UnrollInfo

T = TypeVar("T")
Report = Callable[[Mapping[str, float]], None]


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
class _Slot:
    """An actor's place; another process plays there after a death."""

    process: ActorProcess


@dataclass
class _Clock:
    """When things were last done."""

    started: float = field(default_factory=time.monotonic)
    logged: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)


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
    ) -> None:
        self.config, self.suite, self.folder, self.stop = config, suite, folder, stop
        self._report = report
        self._scores = LevelScores(suite.levels, config.train.score_episodes)
        self._counts = LevelCounts(suite.levels)
        self._dealt = deal_levels(config.actors, len(suite.levels))
        self._means = Means()
        self._time_before, self._discarded, self._starts, self._restarts = 0.0, 0, 0, 0
        if resumed is not None:
            self._scores.load_state(resumed.run["scores"])
            self._counts.load_state(resumed.run.get("counts", self._counts.state()))  # older ones have none
            self._time_before = resumed.run["time_s"]
            self._discarded = resumed.run["discarded"]
            self._starts = resumed.run["starts"] + 1
        self._learner = LearnerProcess(config, None if resumed is None else resumed.learner, num_cpus=1)
        # The number of the start tells the seeds of a resumed run from those before; in the deterministic mode
        # only the number of updates does, so that a resumed run repeats what an uninterrupted one does.
        begin = 0 if resumed is None else int(resumed.meta["updates"])
        self._segment = (begin, 0 if config.train.deterministic else self._starts)
        self._actors = [
            _Slot(ActorProcess(config, i, (*self._segment, 0), num_cpus=1)) for i in range(len(self._dealt))
        ]
        central = config.actors.inference == "central"
        self._inference = InferenceGroup(config, len(self._actors)) if central else None
        self._learnt = Counter[int]()  # hand-ins by the first level of their actor
        self._polls: dict[ray.ObjectRef[list[tuple[int, Fault]]], _Slot] = {}
        self._playing: dict[ray.ObjectRef[UnrollInfo], tuple[_Slot, ray.ObjectRef[Transitions]]] = {}
        self._ready: deque[tuple[UnrollInfo, ray.ObjectRef[Transitions]]] = deque()
        self._updating: ray.ObjectRef[UpdateResult] | None = None
        self._fps = 0.0
        self._writer = MetricsWriter(folder.path, None if resumed is None else int(resumed.meta["env_frames"]))

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train to the end or until stopped, and leave a checkpoint."""
        self._take(self._learned(self._learner.start()))
        self.folder.event("started", env_frames=self._counters.env_frames, updates=self._counters.updates)
        self._clock = _Clock()
        self._logged = self._counters_now()
        if self._counters.updates == 0:
            self._checkpoint()  # so that there is one to go on from, whatever happens first
        step = self._lockstep if self.config.train.deterministic else self._step
        while not self._finished() and self.stop.name is None:
            step()
            now = time.monotonic()
            if now - self._clock.logged >= self.config.train.log_every_s:
                self._log()
            if (
                not self.config.train.deterministic
                and now - self._clock.saved >= self.config.train.checkpoint_every_s
            ):
                self._checkpoint()
        if self._updating is not None:
            self._take(self._learned(self._updating))
            self._updating = None
        for _ in range(2):  # the answers to the last question, and to one more
            self._poll(timeout=1)
        self._log()
        path = self._checkpoint()
        status: Literal["done", "interrupted"] = "done" if self.stop.name is None else "interrupted"
        self.folder.event(status, env_frames=self._counters.env_frames, signal=self.stop.name)
        return Result(status, self._counters, path, self._scores.score())

    def _finished(self) -> bool:
        limit = self.config.train.max_time_s
        late = limit is not None and self._time_s() >= limit
        return late or self._counters.env_frames >= self.config.train.env_frames

    def _step(self) -> None:
        """Give work, wait for something to be done, take it."""
        batch = self.config.unrolls_per_actor_batch
        if self._updating is None and len(self._ready) >= batch:
            self._submit()
        if len(self._ready) < 2 * batch:
            for slot in self._balanced():
                self._play(slot)
        waiting: list[ray.ObjectRef[Any]] = list(self._playing)
        if self._updating is not None:
            waiting.append(self._updating)
        for ref in ray.wait(waiting, timeout=0.5)[0]:
            if ref == self._updating:
                self._updating = None
                self._take(self._learned(ref))
            else:
                self._take_unrolls(ref)

    def _lockstep(self) -> None:
        """One update: every actor plays with the newest weights, in the order of the actors."""
        rounds = self.config.unrolls_per_actor_batch // len(self._actors)
        for _ in range(rounds):
            for slot in self._actors:
                self._play(slot)
            for ref in list(self._playing):
                self._take_unrolls(ref)
        self._submit()
        if self._updating is None:  # an actor died while the run was being stopped
            return
        self._take(self._learned(self._updating))
        self._updating = None
        every = self.config.train.checkpoint_every_updates
        if every and self._counters.updates % every == 0 and not self._finished():
            self._checkpoint()
            self._segment = (self._counters.updates, 0)
            ray.get([slot.process.start((*self._segment, 0)) for slot in self._actors])

    # -- actors ------------------------------------------------------------------------------

    def _balanced(self) -> list[_Slot]:
        """The idle actors that may play: all, or those whose level is not ahead of others."""
        busy = {id(slot) for slot, _ in self._playing.values()}
        idle = [slot for slot in self._actors if id(slot) not in busy]
        per_level = self.config.actors.per_level
        if self.config.actors.balance != "frames" or per_level is None:
            return idle
        begun = self._learnt.copy()
        begun.update(self._level(info.actor) for info, _ in self._ready)
        begun.update(self._level(slot.process.index) for slot, _ in self._playing.values())
        least, allowed = min(begun[k] for k in range(len(self.suite.levels))), []
        for slot in idle:
            level = self._level(slot.process.index)
            if begun[level] < least + per_level:
                begun[level] += 1
                allowed.append(slot)
        return allowed

    def _level(self, actor: int) -> int:
        return self._dealt[actor][0]

    def _play(self, slot: _Slot) -> None:
        worker = self._inference.worker_of(slot.process.index) if self._inference is not None else None
        info, data = slot.process.unroll(self._weights, self._counters.version, worker)
        self._playing[info] = (slot, data)

    def _take_unrolls(self, ref: ray.ObjectRef[UnrollInfo]) -> None:
        slot, data = self._playing.pop(ref)
        try:
            info: UnrollInfo = ray.get(ref)
        except ray.exceptions.RayError as e:
            if isinstance(cause := getattr(e, "cause", None), InferenceLost):
                self._restart_inference(slot.process.index, str(cause))
            else:
                self._restart(slot, e)
            return
        self._scores.add(info.episodes)
        self._means.add({f"time/actor_{k}_s": v for k, v in info.seconds.items()})
        self._take_upkeep(info)
        self._ready.append((info, data))

    def _take_upkeep(self, info: UnrollInfo) -> None:
        for upkeep in info.upkeep:
            name = self.suite.levels[upkeep.level].name
            for seconds in upkeep.reset_s:
                self._means.add({f"level/{name}/reset_s": seconds, f"level/{name}/reset_s_max": seconds})
            self._take_faults(info.actor, [(upkeep.level, fault) for fault in upkeep.faults])
            self._counts.add(upkeep.level, upkeep.counts)

    def _take_faults(self, actor: int, faults: Sequence[tuple[int, Fault]]) -> None:
        for level, fault in faults:
            self.folder.event("fault", level=self.suite.levels[level].name, actor=actor, **asdict(fault))
            self._counts.add(level, {"faults": 1})

    def _poll(self, timeout: float = 0) -> None:
        """Ask every actor for faults of unrolls that are not done, and take what answers there are by now."""
        asked = list(self._polls)
        for ref in ray.wait(asked, num_returns=len(asked), timeout=timeout)[0] if asked else []:
            slot = self._polls.pop(ref)
            with contextlib.suppress(ray.exceptions.RayError):  # a death is found out by the unroll
                self._take_faults(slot.process.index, ray.get(ref))
        waiting = {id(slot) for slot in self._polls.values()}
        self._polls |= {slot.process.take_faults(): slot for slot in self._actors if id(slot) not in waiting}

    def _restart(self, slot: _Slot, error: Exception) -> None:
        """Put a new actor in the place of one that died; its unfinished unrolls are lost."""
        if self.stop.name is not None:
            return
        if isinstance(cause := getattr(error, "cause", None), TrainingError):
            raise TrainingError(f"actor {slot.process.index}: {cause}")
        lines = str(getattr(error, "cause", None) or error).strip().splitlines()
        reason = lines[-1] if lines else repr(error)
        self.folder.event("actor_died", actor=slot.process.index, error=reason)
        self._count_restart(reason)
        self._end(slot.process, timeout=5)
        segment = (*self._segment, self._restarts)
        slot.process = ActorProcess(self.config, slot.process.index, segment, num_cpus=1)
        if self.config.train.deterministic:
            self._play(slot)
            for ref in [r for r, (s, _) in self._playing.items() if s is slot]:
                self._take_unrolls(ref)

    def _restart_inference(self, actor: int, reason: str) -> None:
        """Put a new worker in the place of the one that acted for `actor`, if that is dead."""
        assert self._inference is not None
        if self.stop.name is not None:
            return
        worker = self._inference.restart_lost(actor, self._weights, self._counters.version)
        if worker is not None:
            self.folder.event("inference_died", worker=worker, error=reason)
            self._count_restart(reason)

    def _count_restart(self, reason: str) -> None:
        self._restarts += 1
        if self._restarts > self.config.actors.max_restarts:
            raise TrainingError(
                f"actors died {self._restarts} times, more than actors.max_restarts="
                f"{self.config.actors.max_restarts}; the last: {reason}"
            )

    # -- learner -----------------------------------------------------------------------------

    def _submit(self) -> None:
        """Hand a batch to the learner, if enough unrolls are recent enough."""
        allowed, now = self.config.learner.max_policy_lag, self._counters.version
        recent = [r for r in self._ready if allowed is None or now - r[0].version <= allowed]
        self._discarded += len(self._ready) - len(recent)
        self._ready = deque(recent)
        if len(recent) < self.config.unrolls_per_actor_batch:
            return
        taken = [self._ready.popleft() for _ in range(self.config.unrolls_per_actor_batch)]
        for info, _ in taken:
            self._learnt[self._level(info.actor)] += 1
            frames = self.config.learner.unroll_length * self.suite.action_repeat
            for k, slots in Counter(self._dealt[info.actor]).items():
                key = f"level/{self.suite.levels[k].name}/lag"
                self._means.add({f"{key}_mean": now - info.version, f"{key}_max": now - info.version})
                self._counts.add(k, {"env_frames": slots * frames})
        versions = [info.version for info, _ in taken]
        self._updating = self._learner.update(versions, [data for _, data in taken])

    def _learned(self, ref: "ray.ObjectRef[T]") -> T:
        """What the learner answers; raises `TrainingError` where it failed or died."""
        try:
            return ray.get(ref)
        except ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, TrainingError):
                raise TrainingError(str(e.cause)) from None
            raise TrainingError(f"the learner failed: {type(e.cause).__name__}: {e.cause}") from e
        except ray.exceptions.RayError as e:
            raise TrainingError(f"the learner died: {str(e).strip().splitlines()[0]}") from None

    def _take(self, result: UpdateResult) -> None:
        self._counters = result.counters
        if result.weights is not None:
            self._weights = result.weights
            if self._inference is not None:
                self._inference.load(self._weights, self._counters.version)
        self._means.add(result.metrics)

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
            "actors/restarts": self._restarts,
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
        state = self._learned(self._learner.state())
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
        self.folder.event("checkpoint", env_frames=counters.env_frames, path=path.name)
        self._clock.saved = time.monotonic()
        return path

    def close(self) -> None:
        """End every process, the games first."""
        closing = [slot.process.close() for slot in self._actors]
        ray.wait(closing, num_returns=len(closing), timeout=20)
        for slot in self._actors:
            self._end(slot.process, timeout=0)
        if self._inference is not None:
            self._inference.kill()
        with contextlib.suppress(ray.exceptions.RayError):
            self._learner.kill()
        with contextlib.suppress(OSError):  # a full disk must not hide what came before it
            self._writer.close()

    @staticmethod
    def _end(process: ActorProcess, timeout: float) -> None:
        """Kill an actor, after giving it some seconds to close its games."""
        with contextlib.suppress(ray.exceptions.RayError):
            if timeout:
                ray.wait([process.close()], timeout=timeout)
            process.kill()
