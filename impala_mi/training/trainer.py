"""The driver's loop: a configuration becomes a running system of actors and a learner.

The driver moves references, never arrays: actors deliver rollouts, batches of them go to the learner, the learner
publishes weights, and each actor gets the newest weights with its next rollout. Every queue is bounded: an actor
has one rollout in flight, and none starts another while two batches wait besides the one the learner works on.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from impala_mi.training.ray_cluster import running_ray  # before Ray is imported

# isort: split
import ray
from ray.util.placement_group import PlacementGroup

from impala_mi.actors.inference_group import InferenceGroup
from impala_mi.actors.worker import ActorProcess
from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.errors import GivenUp, TrainingError
from impala_mi.host.port import Port
from impala_mi.host.signals import StopSignal
from impala_mi.learner.group import start_ranks
from impala_mi.learner.update import Counters
from impala_mi.runs.checkpoint import Checkpoint, digest
from impala_mi.runs.folder import RunFolder
from impala_mi.training.actor_pool import ActorPool, ActorState, MakeActor, RolloutRef
from impala_mi.training.balance import LevelBalance
from impala_mi.training.batch_source import BatchSource, RolloutQueue
from impala_mi.training.learner_supervisor import LearnerSupervisor, MakeRanks
from impala_mi.training.placement import Places, reserve
from impala_mi.training.preflight import check
from impala_mi.training.ray_port import RAY
from impala_mi.training.recorder import RETRY_S, Preview, Recorder, Report
from impala_mi.types import Weights

MAX_IN_FLIGHT = 2
"""Updates in flight at once: the learner brings one batch to the device while it learns from another."""
STOP_S = 20.0
"""Seconds that a run which is to stop waits for each update in flight; after them the rescue copy is saved."""
ROOM_S = 600.0
"""Seconds that a run which is done waits for room for its last checkpoint."""
POLL_S = 5.0
"""Seconds after which a rollout in flight is asked for faults that it has not delivered yet."""


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

    `report` is called with every record that is logged. Raises `TrainingError` if training cannot go on.
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
                trainer.recorder.event("failed", error=message)
            raise TrainingError(f"{message}; the last checkpoint is kept: impala-mi resume {folder.path}") from None
        finally:
            trainer.close()


class Trainer:
    """The driver's loop; see the module's docstring.

    Args:
        config: the run's configuration.
        suite: suite of levels.
        folder: folder of the run.
        resumed: checkpoint to resume from, or None.
        report: called with every record that is logged.
        stop: set from outside when the run is to stop.
        make_actor: makes an actor's process.
        make_ranks: makes the processes of the learner's ranks.
        make_inference: makes the inference workers, if inference is central.
        between: called with the trainer between two steps of its loop.
        places: resources reserved for the run; None reserves them here.
        port: calls to remote processes, and the clock.
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
        make_ranks: MakeRanks = start_ranks,
        make_inference: Callable[[Config, int, PlacementGroup], InferenceGroup] = InferenceGroup,
        between: Callable[["Trainer"], None] = lambda _: None,
        places: Places | None = None,
        port: Port = RAY,
    ) -> None:
        self.config, self.suite, self.stop = config, suite, stop
        self._folder, self._between, self._port = folder, between, port
        self.recorder = Recorder(config, suite, folder, resumed, report, port.now)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.recorder.close)
            [own] = reserve(config) if places is None else [places]
            state = None if resumed is None else resumed.learner
            self._learner = LearnerSupervisor(
                config, state, own.learner, make_ranks, port, self._record_learner_event, self._publish,
                self.recorder.save, self._while_learner_starts,
            )  # fmt: skip
            # The number of the start distinguishes the seeds of a resumed run from earlier ones; in the
            # deterministic mode only the number of updates does, so a resumed run repeats an uninterrupted one.
            updates = 0 if resumed is None else int(resumed.meta["updates"])
            seed_epoch = (updates, 0 if config.train.deterministic else self.recorder.starts)
            self._pool = ActorPool(
                config, suite, seed_epoch, self.recorder.event, lambda: stop.name is not None, own.inference,
                make_actor, make_inference, port,
            )  # fmt: skip
            self._source: BatchSource = RolloutQueue(
                config.rollouts_per_batch, config.learner.max_policy_lag, self.recorder.discard
            )
            per_level = config.actors.per_level
            balanced = config.actors.balance == "frames" and per_level is not None
            self._balance = LevelBalance(self._pool.assignment, per_level or 1) if balanced else None
            on_error.pop_all()

    @property
    def counters(self) -> Counters:
        """Counters of the last update whose result was consumed."""
        return self._learner.counters

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> Result:
        """Train to the end or until stopped, and leave a checkpoint."""
        self._learner.start()
        self._pool.reset_quorum_clock()
        self.recorder.event("started", env_frames=self.counters.env_frames, updates=self.counters.updates)
        self.recorder.start(self.counters.env_frames)
        if self.counters.updates == 0:
            self._checkpoint()  # so that the run can be resumed whatever happens first
        try:
            self._loop()
        except GivenUp:
            self._try_checkpoint()
            raise
        path = self._last_checkpoint()  # first: whoever stopped the run may not wait long
        for _ in range(2):  # answers to the last question for faults, and to one more
            self._poll_faults(since_s=0, timeout=1)
        self._log()
        status: Literal["done", "interrupted"] = "done" if self.stop.name is None else "interrupted"
        self.recorder.event(status, env_frames=self.counters.env_frames, signal=self.stop.name)
        return Result(status, self.counters, path, self.recorder.score())

    def _loop(self) -> None:
        train = self.config.train
        step = self._lockstep if train.deterministic else self._step
        while not self._finished() and self.stop.name is None:
            step()
            self._learner.refresh_rescue_copy()
            self._between(self)
            if self.recorder.due_to_log():
                self._log()
            if not train.deterministic and self.recorder.due_to_checkpoint():
                self._try_checkpoint()

    def _finished(self) -> bool:
        limit = self.config.train.max_time_s
        late = limit is not None and self.recorder.time_s() >= limit
        return late or self.counters.env_frames >= self.config.train.env_frames

    def _last_in_flight(self) -> bool:
        """Whether the updates in flight complete the run."""
        frames = self._learner.in_flight * self.config.steps_per_update * self.suite.action_repeat
        return self.counters.env_frames + frames >= self.config.train.env_frames

    def _step(self) -> None:
        """Give work to actors and learner, wait for a result, consume it."""
        learner, pool, batch = self._learner, self._pool, self.config.rollouts_per_batch
        if learner.in_flight < MAX_IN_FLIGHT and len(self._source) >= batch and not self._last_in_flight():
            self._submit()
        staged = max(0, learner.in_flight - 1)
        if len(self._source) + staged * batch < 2 * batch:
            for actor in self._actors_to_play():
                self._play(actor)
        pending = learner.pending()
        done = pool.wait(pending, 0.5 if pending or not learner.in_flight else 0)
        for ref in done:
            if ref not in pending and (rollout := pool.consume(ref)) is not None:
                self._add_rollout(rollout)
        if learner.has_news(pending, done):
            self._consume_update(wait_s=0)
        pool.supervise()

    def _lockstep(self) -> None:
        """One update: every actor plays with the newest weights, in the order of the actors."""
        actors = len(self._pool.actors)
        for _ in range(self.config.rollouts_per_batch // actors):
            rollouts: dict[int, RolloutRef] = {}
            while len(rollouts) < actors and self.stop.name is None:
                self._pool.supervise()
                for actor in self._pool.idle():
                    if actor.index not in rollouts:
                        self._play(actor)
                for ref in self._pool.wait([], timeout=0.5):
                    if (rollout := self._pool.consume(ref)) is not None:
                        rollouts[rollout.info.actor] = rollout
            for index in sorted(rollouts):
                self._add_rollout(rollouts[index])
        if self.stop.name is not None:
            return
        self._submit()
        self._drain()
        every = self.config.train.checkpoint_every_updates
        if every and self.counters.updates % every == 0 and not self._finished():
            self._try_checkpoint()
            self._pool.restart_episodes((self.counters.updates, 0))

    # -- actors ------------------------------------------------------------------------------

    def _actors_to_play(self) -> list[ActorState]:
        """Idle actors that may play: all or, if frames are balanced, those whose level is not ahead."""
        pool = self._pool
        if self._balance is None:
            return pool.idle()
        return self._balance.allowed(pool.idle(), pool.levels_alive(), self._source.actors(), pool.in_flight())

    def _play(self, actor: ActorState) -> None:
        assert self._learner.weights is not None
        self._pool.play(actor, self._learner.weights, self.counters.version)

    def _add_rollout(self, rollout: RolloutRef) -> None:
        self.recorder.on_rollout(rollout.info, scored=self._source.add(rollout))

    def _poll_faults(self, since_s: float = POLL_S, timeout: float = 0) -> None:
        """Record faults of rollouts that have been in flight for `since_s` seconds."""
        for actor, faults in self._pool.poll_faults(since_s, timeout):
            self.recorder.on_faults(actor, faults)

    # -- learner -----------------------------------------------------------------------------

    def _publish(self, weights: "ray.ObjectRef[Weights]", version: int) -> None:
        self._pool.publish(weights, version)

    def _record_learner_event(self, kind: str, /, **details: Any) -> None:
        if kind == "learner_restarted":
            self.recorder.rewind(details["env_frames"])
        self.recorder.event(kind, **details)

    def _while_learner_starts(self) -> None:
        """Supervise the actors while the learner is replaced; raises `TrainingError` if the run is to stop."""
        if self.stop.name is not None:
            raise TrainingError(f"{self.stop.name} while the learner was being replaced")
        self._pool.supervise()

    def _submit(self) -> None:
        """Give the learner a batch, if enough rollouts are recent enough when it is this batch's turn."""
        batch = self._source.batch(self.counters.version + self._learner.in_flight)
        if batch is None:
            return
        if self._balance is not None:
            for rollout in batch:
                self._balance.count(rollout.info.actor)
        self._learner.submit(batch)

    def _drain(self) -> bool:
        """Consume all updates in flight; False if the run is to stop and the learner does not answer."""
        stopped_at = math.inf
        while in_flight := self._learner.in_flight:
            self._consume_update(wait_s=0.5)
            if self.stop.name is not None:
                stopped_at = min(stopped_at, self._port.now())
            if self._learner.in_flight < in_flight:  # the next update has as long
                stopped_at = math.inf
            if self._port.now() - stopped_at > STOP_S:
                return False
        return True

    def _consume_update(self, wait_s: float) -> None:
        """Record the oldest update in flight, if it finishes within `wait_s` seconds."""
        if (update := self._learner.consume(wait_s)) is None:
            return
        levels = [self._pool.assignment[info.actor] for info in update.infos]
        self.recorder.on_update(update.metrics, zip(levels, update.lags, strict=True))

    def state(self) -> dict[str, Any]:
        """Learner state after the updates in flight; a learner that died is replaced first."""
        return self._learner.state()

    def load_member(self, config: Config, member: dict[str, Any], donor: dict[str, Any] | None) -> bool:
        """Become another member of a population, between two updates, and leave a checkpoint.

        The actors play on; rollouts of older weights are discarded. If the learner dies, it is replaced by one that
        has the new member's state and hyperparameters.

        Args:
            config: configuration of the member; only the learner's hyperparameters differ.
            member: what checkpoints say about the member from now on.
            donor: learner state of another member whose weights are copied, or None to keep the weights.

        Returns False if the run is to stop and nothing was changed. Raises `TrainingError` if the learner does not
        hold what it was given.
        """
        if not self._drain():
            return False
        state = self.state()
        if donor is not None:
            own, other = Counters(**state["counters"]), Counters(**donor["counters"])
            ahead = other.agent_steps + other.schedule_ahead - own.agent_steps
            counters = asdict(replace(own, version=own.version + 1, schedule_ahead=ahead))
            state = state | {"agent": donor["agent"], "optimizer": donor["optimizer"], "counters": counters}
            self._source.restart(own.version + 1)
            self.recorder.forget_episodes()
        # The commit point: a learner that dies from here on is replaced, and saved, as the new member.
        self.config = config
        self.recorder.set_member(member)
        self._learner.load_member(config, state)
        held = self.state()
        if digest(held) != digest(state) or any(h != config.learner for h in self._learner.hyperparameters()):
            raise TrainingError("the learner does not hold the weights and hyperparameters that it was given")
        self._learner.confirm()
        self._folder.write_config(config)
        self.recorder.save(held)
        return True

    # -- records -----------------------------------------------------------------------------

    def _log(self) -> None:
        self._poll_faults()
        self.recorder.log(self.counters, self._pool.metrics() | {"learner/restarts": self._learner.restarts})

    def _checkpoint(self) -> Path:
        """Save the learner's state; raises `OSError`."""
        return self.recorder.save(*self._state_to_save())

    def _try_checkpoint(self) -> None:
        """Save the learner's state, or warn that it cannot be written."""
        self.recorder.try_to_save(*self._state_to_save())

    def _last_checkpoint(self) -> Path:
        """Save the learner's state; wait `ROOM_S` seconds for a disk that is full, unless the run is to stop."""
        deadline = self._port.now() + ROOM_S
        while True:
            try:
                return self._checkpoint()
            except OSError as e:
                if self.stop.name is not None or self._port.now() > deadline:
                    raise
                self.recorder.warn_of(e, "the last checkpoint")
            retry_at = self._port.now() + RETRY_S
            while self.stop.name is None and self._port.now() < retry_at:
                self._port.sleep(1)

    def _state_to_save(self) -> tuple[dict[str, Any], Preview]:
        """The learner's state, or the last known one if the run is to stop and the learner does not answer."""
        drained, known = self._drain(), self._learner.last_known
        state = self.state() if drained or known is None else known
        return state, self._learner.preview if drained else lambda: None

    def close(self) -> None:
        """End every process; actors close their games first."""
        self._pool.close()
        self._learner.kill()
        self.recorder.close()
