"""Recorder: gathers the metrics and events of a run and writes them, its checkpoints, and copies of its folder."""

import contextlib
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.envs.scores import has_references
from impala_mi.host.files import Log
from impala_mi.learner.update import Counters
from impala_mi.redaction import redact, redact_values
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.checkpoint import Checkpoint
from impala_mi.runs.folder import RunFolder, event_line
from impala_mi.runs.metrics import LevelCounts, LevelScores, Means
from impala_mi.runs.mirror import Mirror
from impala_mi.runs.sinks import RunInfo, make_sinks
from impala_mi.types import Fault, RolloutInfo, RolloutPreview

MAX_LEVELS = 10
"""Levels that an event about skipped updates names."""
RETRY_S = 60.0
"""Seconds after which a checkpoint that could not be written is tried again, and between two warnings."""
Report = Callable[[Mapping[str, float]], None]
Preview = Callable[[], RolloutPreview | None]


class Recorder:
    """Writer of one run's folder and sinks.

    Args:
        config: the run's configuration.
        suite: suite of levels.
        folder: folder of the run.
        resumed: checkpoint that the run continues from, or None.
        report: called with every record.
        now: monotonic clock in seconds.
    """

    def __init__(
        self,
        config: Config,
        suite: Suite,
        folder: RunFolder,
        resumed: Checkpoint | None,
        report: Report,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._suite, self._folder, self._report, self._now = config, suite, folder, report, now
        self._scores = LevelScores(suite.levels, config.train.score_episodes)
        self._counts = LevelCounts(suite.levels)
        self._means = Means()
        self._compiling = {k for k, level in enumerate(suite.levels) if level.name in suite.compiles}
        self._time_before, self._discarded, self._starts = 0.0, 0, 0
        self._member: dict[str, Any] = {}
        self._extra: dict[str, float] = {}
        self._events, self._warned_at = Log(folder.events), -math.inf
        self._skipped, self._skipped_levels = 0, Counter[int]()
        if resumed is not None:
            run = resumed.run
            self._scores.load_state(run["scores"])
            self._counts.load_state(run.get("counts", self._counts.state()))  # older checkpoints have none
            self._time_before, self._discarded = run["time_s"], run["discarded"]
            self._starts = run["starts"] + 1
        resumed_at = None if resumed is None else int(resumed.meta["env_frames"])
        self.mirror_failed = False
        """Whether the last copy to run.mirror, made by `close`, failed."""
        self._mirror = None if config.run.mirror is None else Mirror(config.run.mirror, folder.path)
        info = RunInfo(folder.path, config, suite.level_names, resumed_at)
        self._sinks = make_sinks(info, lambda name, error: self.event("sink_failed", sink=name, error=error))
        self._fps = 0.0
        self._began_at = now()
        psutil.cpu_percent()  # counts from the last call
        self.rewind(0)

    # -- clocks ------------------------------------------------------------------------------

    def start(self, env_frames: int) -> None:
        """Start the clocks: training begins at `env_frames`."""
        if not self._member:  # a population shows hyperparameters of its own
            self._run_hparams()
        self._began_at = self._now()
        self.rewind(env_frames)

    def rewind(self, env_frames: int) -> None:
        """Measure frames per second from here; a replaced learner may be at an earlier frame."""
        self._logged = (self.time_s(), env_frames)
        self._logged_at = self._saved_at = self._now()

    def time_s(self) -> float:
        """Seconds of training, including those before a resume."""
        return self._time_before + self._now() - self._began_at

    def due_to_log(self) -> bool:
        """Whether `train.log_every_s` has passed since the last record."""
        return self._now() - self._logged_at >= self._config.train.log_every_s

    def due_to_checkpoint(self) -> bool:
        """Whether `train.checkpoint_every_s` has passed since the last checkpoint."""
        return self._now() - self._saved_at >= self._config.train.checkpoint_every_s

    # -- what is known of the run ------------------------------------------------------------

    @property
    def starts(self) -> int:
        """Number of earlier starts of the run."""
        return self._starts

    @property
    def discarded(self) -> int:
        """Number of discarded rollouts."""
        return self._discarded

    @property
    def fps(self) -> float:
        """Frames per second between the last two records."""
        return self._fps

    @property
    def scores(self) -> LevelScores:
        """Returns of the newest episodes."""
        return self._scores

    @property
    def member(self) -> dict[str, Any]:
        """State of the run as a member of a population, as checkpoints hold it; {} outside a population."""
        return self._member

    def score(self) -> float | None:
        """Score over the newest episodes of all levels."""
        return self._scores.score()

    def set_member(self, member: dict[str, Any], least_episodes: int | None = None) -> None:
        """Set the population member's state for later checkpoints.

        Args:
            member: generation, hyperparameters and episodes of the member.
            least_episodes: number of episodes of every level that a score needs; None leaves it as it is.
        """
        self._member = member
        if least_episodes is not None:
            self._scores.least = least_episodes

    def set_extra_metrics(self, metrics: Mapping[str, float]) -> None:
        """Set metrics that are added to every record from now on."""
        self._extra = dict(metrics)

    # -- what happens ------------------------------------------------------------------------

    def on_rollout(self, info: RolloutInfo, scored: bool = True) -> None:
        """Count what an actor reports with a rollout; episodes of another agent are not `scored`."""
        if scored:
            self._scores.add(info.episodes)
        self._means.add({f"time/actor_{k}_s": v for k, v in info.seconds.items()})
        for env_stats in info.env_stats:
            name = self._suite.levels[env_stats.level].name
            if env_stats.reset_s:
                self._compiling.discard(env_stats.level)
            for seconds in env_stats.reset_s:
                self._means.add({f"level/{name}/reset_s": seconds, f"level/{name}/reset_s_max": seconds})
            self.on_faults(info.actor, [(env_stats.level, fault) for fault in env_stats.faults])
            self._counts.add(env_stats.level, env_stats.counts)

    def on_faults(self, actor: int, faults: Sequence[tuple[int, Fault]]) -> None:
        """Count and report faults of an actor's levels, which are given by index."""
        for level, fault in faults:
            self.event("fault", level=self._suite.levels[level].name, actor=actor, **asdict(fault))
            self._counts.add(level, {"faults": int(fault.costs_episode)})

    def on_update(self, metrics: Mapping[str, float], rollouts: Iterable[tuple[Sequence[int], int]]) -> None:
        """Count an update.

        Args:
            metrics: metrics of the update.
            rollouts: for each rollout of its batch the level of each environment, by index, and the lag: the number
                of versions between the weights that acted and those that learnt from it.
        """
        self._means.add(metrics)
        rollouts = list(rollouts)
        if not all(map(math.isfinite, (metrics.get("loss/total", 0.0), metrics.get("learner/grad_norm", 0.0)))):
            self._skipped_levels.update(level for levels, _ in rollouts for level in set(levels))
            self._skipped += 1
        frames = self._config.learner.unroll_length * self._suite.action_repeat
        for levels, lag in rollouts:
            for level, environments in Counter(levels).items():
                key = f"level/{self._suite.levels[level].name}/lag"
                self._counts.add(level, {"env_frames": environments * frames})
                self._means.add({f"{key}_mean": lag, f"{key}_max": lag})

    def discard(self, rollouts: int) -> None:
        """Count rollouts that are not learnt from."""
        self._discarded += rollouts

    def forget_episodes(self) -> None:
        """Forget the returns so far; the agent is another one now."""
        self._scores.forget()

    # -- what is written ---------------------------------------------------------------------

    def log(self, counters: Counters, metrics: Mapping[str, float]) -> None:
        """Write a record of what happened since the last one, with further `metrics`."""
        time_s, frames = self.time_s(), counters.env_frames
        before_s, before = self._logged
        if frames == before and time_s - before_s < self._config.train.log_every_s:
            return
        if time_s - before_s >= 1:  # the last record may come at once after the one before
            self._fps = (frames - before) / (time_s - before_s)
        self._report_skipped_updates()
        means = self._means.take()
        update_s = means.get("time/update_s", 0.0)
        per_update = self._config.steps_per_update * self._suite.action_repeat
        counted = asdict(counters)
        record = {
            "time_s": time_s,
            **{k: counted[k] for k in ("env_frames", "agent_steps", "updates")},
            "fps": self._fps,
            "learner_fps": per_update / update_s if update_s else 0.0,
            **metrics,
            **self._extra,
            "machine/cpu_percent": psutil.cpu_percent(),
            "machine/memory_percent": psutil.virtual_memory().percent,
            "actors/discarded_unrolls": self._discarded,
            **({"levels/compiling": len(self._compiling)} if self._suite.compiles else {}),
            **means,
            **self._scores.metrics(),
            **self._counts.metrics(),
            "learner/skipped_updates": counters.skipped,
        }
        self._attempt("the record", lambda: self._sinks.write(record))
        self._report(record)
        self._logged, self._logged_at = (time_s, frames), self._now()

    def _report_skipped_updates(self) -> None:
        """Write an event about updates that were skipped since the last one, with the levels of their batches."""
        if self._skipped:
            levels = {
                self._suite.level_names[k]: count for k, count in self._skipped_levels.most_common(MAX_LEVELS)
            }
            self.event("updates_skipped", updates=self._skipped, rollouts_by_level=levels)
            self._skipped, self._skipped_levels = 0, Counter()

    def try_to_save(self, state: dict[str, Any], preview: Preview = lambda: None) -> None:
        """Save, or warn that the checkpoint could not be written; another is due after `RETRY_S` at most."""
        try:
            self.save(state, preview)
        except OSError as e:
            every_s = self._config.train.checkpoint_every_s
            self._saved_at = self._now() - every_s + min(every_s, RETRY_S)
            frames = state["counters"]["env_frames"]
            self.warn_of(e, f"the checkpoint at {frames:,} frames")
            self.event("checkpoint_failed", env_frames=frames, error=str(e))

    def save(self, state: dict[str, Any], preview: Preview = lambda: None) -> Path:
        """Write a checkpoint of the learner's state, and what `preview` returns to the sinks; raises `OSError`."""
        counters = Counters(**state["counters"])
        run = {
            "scores": self._scores.state(),
            "counts": self._counts.state(),
            "time_s": self.time_s(),
            "discarded": self._discarded,
            "starts": self._starts,
            "member": self._member,
        }
        meta = {"env_frames": counters.env_frames, "updates": counters.updates, "score": self.score()}
        path = checkpoints.save(self._folder.checkpoints, state, run, meta, self._config.train.keep_checkpoints)
        self.event("checkpoint", env_frames=counters.env_frames, path=path.name)
        self._start_copy()
        self._saved_at = self._now()
        try:
            if (rollout := preview()) is not None:
                self._sinks.preview(self._suite.levels[rollout.level].name, rollout)
        except Exception as e:  # no reason to stop training
            self.event("sample_failed", error=f"{type(e).__name__}: {e}")
        return path

    def _start_copy(self) -> None:
        """Start a copy to run.mirror. Each failed one is an event; the terminal shows the first and the last."""
        if self._mirror is None:
            return
        failures = self._mirror.failures
        if (reason := self._mirror.push()) is not None:
            self.event("mirror_failed", error=reason)
            if failures == 0:
                _warn(
                    f"no copy to run.mirror: {reason}; training goes on, each checkpoint tries again, and a "
                    "note follows once a copy succeeds"
                )
        elif failures and not self._mirror.failures:
            self.event("mirror_recovered", failures=failures)
            _say_recovered(failures)

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """Show hyperparameters beside a metric."""
        self._sinks.hparams(values, metric)

    def _run_hparams(self) -> None:
        """Show settings of agent and learner beside the score or, without references, a level's return."""
        sections = {"agent": self._config.agent, "learner": self._config.learner}
        values = {
            f"{name}.{key}": value if isinstance(value, bool | int | float | str) else str(value)
            for name, section in sections.items()
            for key, value in section.model_dump(mode="json").items()
        }
        first = f"level/{self._suite.level_names[0]}/return_mean"
        metric = "score/capped_mean" if has_references(self._suite.levels) else first
        self.hparams({"seed": self._config.seed, **values}, metric)

    def event(self, kind: str, /, **details: Any) -> None:
        """Write an event to events.jsonl and to the sinks, without secrets of URLs.

        What a full disk refuses is written later.
        """
        self._attempt("an event", lambda: self._events.append(event_line(kind, details)))
        self._attempt("an event", lambda: self._sinks.event(kind, redact_values(details)))

    def _attempt(self, what: str, write: Callable[[], None]) -> None:
        """Write to files that keep what a full disk refuses; warn of it once in `RETRY_S` seconds."""
        try:
            write()
        except OSError as e:
            if self._now() - self._warned_at >= RETRY_S:
                self.warn_of(e, what)

    def warn_of(self, error: OSError, what: str) -> None:
        """Warn the user that something could not be written, and that training goes on."""
        self._warned_at = self._now()
        warnings.warn(
            f"{time.strftime('%H:%M:%S')}: {what} could not be written ({error}); training goes on and tries "
            f"again: make room, or make {str(self._folder.path)!r} writable",
            stacklevel=2,
        )

    def close(self) -> None:
        """Write what is left: files of the folder first, then their copies; slow services are waited for last."""
        for close in (self._events.flush, self._sinks.close_required, self._close_mirror, self._sinks.close):
            with contextlib.suppress(OSError):  # a full disk must not hide an earlier error
                close()

    def _close_mirror(self) -> None:
        """Copy what is left; events go to the folder alone, as its sinks are closed."""
        if self._mirror is None:
            return
        failures = self._mirror.failures
        if (reason := self._mirror.close()) is not None:
            self.mirror_failed = True
            self._folder.event("mirror_failed", error=reason)
            _warn(f"the last copy to run.mirror failed: {reason}; the newest state is in {self._folder.path} only")
        elif failures:
            self._folder.event("mirror_recovered", failures=failures)
            _say_recovered(failures)


def _warn(text: str) -> None:
    _say(f"warning: {text}")


def _say_recovered(failures: int) -> None:
    _say(f"note: the copy in run.mirror is whole again, after {failures} that failed")


def _say(text: str) -> None:
    print(redact(text), file=sys.stderr, flush=True)
