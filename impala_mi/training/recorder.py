"""What a run leaves behind: metrics, events, checkpoints, copies of them elsewhere."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.envs.scores import has_references
from impala_mi.learner.update import Counters
from impala_mi.runs import checkpoint as checkpoints
from impala_mi.runs.checkpoint import Checkpoint
from impala_mi.runs.folder import RunFolder
from impala_mi.runs.metrics import LevelCounts, LevelScores, Means, MetricsWriter
from impala_mi.runs.mirror import Mirror
from impala_mi.types import Fault, RolloutInfo, RolloutPreview

Report = Callable[[Mapping[str, float]], None]


class Records:
    """Gathers what happens and writes it to the run's folder.

    Args:
        config: the run's configuration.
        suite: what is played.
        folder: of the run.
        resumed: the checkpoint that it goes on from.
        report: gets every record that is logged.
    """

    def __init__(
        self, config: Config, suite: Suite, folder: RunFolder, resumed: Checkpoint | None, report: Report
    ) -> None:
        self._config, self._suite, self._folder, self._report = config, suite, folder, report
        self.scores = LevelScores(suite.levels, config.train.score_episodes)
        self._counts = LevelCounts(suite.levels)
        self.means = Means()
        self._time_before, self.discarded, self.starts = 0.0, 0, 0
        self.member: dict[str, Any] = {}
        """What it is in a population: goes into checkpoints."""
        self.more: dict[str, float] = {}
        """And into each record."""
        if resumed is not None:
            self.scores.load_state(resumed.run["scores"])
            self._counts.load_state(resumed.run.get("counts", self._counts.state()))  # older ones have none
            self._time_before = resumed.run["time_s"]
            self.discarded = resumed.run["discarded"]
            self.starts = resumed.run["starts"] + 1
        self._writer = MetricsWriter(folder.path, None if resumed is None else int(resumed.meta["env_frames"]))
        self._writer.layout(suite.level_names)
        self._mirror = None if config.run.mirror is None else Mirror(config.run.mirror, folder.path)
        self.fps = 0.0
        self._began = time.monotonic()
        psutil.cpu_percent()  # counts from the last call
        self.rewind(0)

    def start(self, env_frames: int) -> None:
        """Training begins, with so many frames behind it."""
        if not self.member:  # whose population has a table of its own
            self._hparams_of_run()
        self._began = time.monotonic()
        self.rewind(env_frames)

    def rewind(self, env_frames: int) -> None:
        """Count frames a second from here: the learner's count begins, or has gone back."""
        self._logged = (self.time_s(), env_frames)
        self.logged_at = self.saved_at = time.monotonic()

    def time_s(self) -> float:
        """Seconds of training, those before a resume counted."""
        return self._time_before + time.monotonic() - self._began

    def score(self) -> float | None:
        """Of the last episodes of all levels."""
        return self.scores.score()

    def take(self, info: RolloutInfo, scored: bool = True) -> None:
        """What an actor tells of its unrolls; episodes that another agent played are not `scored`."""
        if scored:
            self.scores.add(info.episodes)
        self.means.add({f"time/actor_{k}_s": v for k, v in info.seconds.items()})
        for env_stats in info.env_stats:
            name = self._suite.levels[env_stats.level].name
            for seconds in env_stats.reset_s:
                self.means.add({f"level/{name}/reset_s": seconds, f"level/{name}/reset_s_max": seconds})
            self.take_faults(info.actor, [(env_stats.level, fault) for fault in env_stats.faults])
            self._counts.add(env_stats.level, env_stats.counts)

    def take_faults(self, actor: int, faults: Sequence[tuple[int, Fault]]) -> None:
        """Of levels, by their index."""
        for level, fault in faults:
            self.event("fault", level=self._suite.levels[level].name, actor=actor, **asdict(fault))
            self._counts.add(level, {"faults": 1})

    def take_lag(self, lag: int, levels: Sequence[int]) -> None:
        """Versions between the weights that played in these levels and those that learn from it."""
        for k in set(levels):
            key = f"level/{self._suite.levels[k].name}/lag"
            self.means.add({f"{key}_mean": lag, f"{key}_max": lag})

    def learnt(self, levels: Sequence[int]) -> None:
        """An unroll of each of these environments' levels was learnt from."""
        frames = self._config.learner.unroll_length * self._suite.action_repeat
        for k, environments in Counter(levels).items():
            self._counts.add(k, {"env_frames": environments * frames})

    def log(self, counters: Counters, more: Mapping[str, float]) -> None:
        """Write one record of what happened since the last."""
        time_s, frames = self.time_s(), counters.env_frames
        before_s, before = self._logged
        if frames == before and time_s - before_s < self._config.train.log_every_s:
            return
        if time_s - before_s >= 1:  # the last record can come at once after the one before
            self.fps = (frames - before) / (time_s - before_s)
        means = self.means.take()
        update_s = means.get("time/update_s", 0.0)
        per_update = self._config.steps_per_update * self._suite.action_repeat
        counted = asdict(counters)
        record = {
            "time_s": time_s,
            **{k: counted[k] for k in ("env_frames", "agent_steps", "updates")},
            "fps": self.fps,
            "learner_fps": per_update / update_s if update_s else 0.0,
            **more,
            **self.more,
            "machine/cpu_percent": psutil.cpu_percent(),
            "machine/memory_percent": psutil.virtual_memory().percent,
            "actors/discarded_unrolls": self.discarded,
            **means,
            **self.scores.metrics(),
            **self._counts.metrics(),
        }
        self._writer.write(record)
        self._report(record)
        self._logged, self.logged_at = (time_s, frames), time.monotonic()

    def save(self, state: dict[str, Any], look: Callable[[], RolloutPreview | None] = lambda: None) -> Path:
        """A checkpoint of the learner's state; `look` gives what TensorBoard is to show of it."""
        counters = Counters(**state["counters"])
        run = {
            "scores": self.scores.state(),
            "counts": self._counts.state(),
            "time_s": self.time_s(),
            "discarded": self.discarded,
            "starts": self.starts,
            "member": self.member,
        }
        meta = {"env_frames": counters.env_frames, "updates": counters.updates, "score": self.score()}
        path = checkpoints.save(self._folder.checkpoints, state, run, meta, self._config.train.keep_checkpoints)
        self.event("checkpoint", env_frames=counters.env_frames, path=path.name)
        if self._mirror is not None:
            self._mirrored(self._mirror.push())
        self.saved_at = time.monotonic()
        try:
            if (found := look()) is not None:
                self._writer.sample(self._suite.levels[found.level].name, found)
        except Exception as e:  # no reason to stop training
            self.event("sample_failed", error=f"{type(e).__name__}: {e}")
        return path

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """See `MetricsWriter.hparams`."""
        self._writer.hparams(values, metric)

    def _hparams_of_run(self) -> None:
        """Settings of the agent and the learner, beside the score or, without references, a level's return."""
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
        """Write down what happened, for people in TensorBoard too."""
        self._folder.event(kind, **details)
        self._writer.event(kind, details)

    def close(self) -> None:
        """Write what is left."""
        with contextlib.suppress(OSError):  # a full disk must not hide what came before it
            self._writer.close()
            if self._mirror is not None:
                self._mirrored(self._mirror.close())

    def _mirrored(self, failed: Exception | None) -> None:
        if failed is not None:  # training goes on, and the next copy tries again
            self._folder.event("mirror_failed", error=f"{type(failed).__name__}: {failed}")
