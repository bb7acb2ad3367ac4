"""Metrics: their names, aggregation over time, metrics.jsonl and TensorBoard.

A record has at least: time_s, env_frames, agent_steps, updates, fps, learner_fps, lag_mean, lag_max, loss/*,
level/<name>/return_mean (of levels whose episodes have ended), score/capped_mean (where the suite has references).
Of each level also frames_share, reset_s, lag, faults and what its games count (cache_hits, cache_misses).
"""

import json
import math
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from impala_mi.envs.base import Level
from impala_mi.envs.scores import capped_mean, family, normalised
from impala_mi.runs.folder import write_atomically
from impala_mi.types import Episode, RolloutPreview


class LevelScores:
    """Returns and lengths of each level's newest episodes."""

    def __init__(self, levels: Sequence[Level], window: int) -> None:
        self.levels, self.least = levels, 1
        """Episodes of every level in the window for a score."""
        self._returns = [deque[float](maxlen=window) for _ in levels]
        self._lengths = [deque[int](maxlen=window) for _ in levels]
        self.episodes = [0] * len(levels)

    def add(self, episodes: Iterable[Episode]) -> None:
        """Count ended episodes."""
        for episode in episodes:
            self._returns[episode.level].append(episode.return_)
            self._lengths[episode.level].append(episode.length)
            self.episodes[episode.level] += 1

    def forget(self) -> None:
        """Begin the windows anew: what is to come was played by another agent."""
        for returns, lengths in zip(self._returns, self._lengths, strict=True):
            returns.clear()
            lengths.clear()

    def mean_returns(self, least: int = 1) -> dict[str, float]:
        """Of the levels with at least so many episodes in the window."""
        return {
            level.name: sum(r) / len(r)
            for level, r in zip(self.levels, self._returns, strict=True)
            if len(r) >= least
        }

    def score(self) -> float | None:
        """Mean capped normalised score over the window; None where it is not known or not a number."""
        score = capped_mean(self.levels, self.mean_returns(self.least))
        return score if score is not None and math.isfinite(score) else None

    def metrics(self) -> dict[str, float]:
        """Records of each level and the capped mean."""
        out: dict[str, float] = {}
        means = self.mean_returns()
        for level, lengths, count in zip(self.levels, self._lengths, self.episodes, strict=True):
            if level.name in means:
                out[f"level/{level.name}/return_mean"] = means[level.name]
                out[f"level/{level.name}/length_mean"] = sum(lengths) / len(lengths)
                score = normalised(level, means[level.name])
                if score is not None:
                    out[f"level/{level.name}/score"] = score
            out[f"level/{level.name}/episodes"] = count
        score = self.score()
        if score is not None:
            out["score/capped_mean"] = score
        return out

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "returns": [list(r) for r in self._returns],
            "lengths": [list(n) for n in self._lengths],
            "episodes": list(self.episodes),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`."""
        for window, saved in zip(self._returns, state["returns"], strict=True):
            window.extend(saved)
        for lengths, saved in zip(self._lengths, state["lengths"], strict=True):
            lengths.extend(saved)
        self.episodes = list(state["episodes"])


class LevelCounts:
    """What is summed over a whole run by level: frames learnt from, faults, what the games count."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self._names = [level.name for level in levels]
        self._counts: list[Counter[str]] = [Counter() for _ in levels]

    def add(self, level: int, counts: Mapping[str, int]) -> None:
        """Add to one level's counts."""
        self._counts[level].update(counts)

    def metrics(self) -> dict[str, float]:
        """Each count, and each level's share of the frames."""
        frames = sum(counts["env_frames"] for counts in self._counts)
        out: dict[str, float] = {"actors/faults": sum(counts["faults"] for counts in self._counts)}
        for name, counts in zip(self._names, self._counts, strict=True):
            out |= {f"level/{name}/{key}": counts[key] for key in sorted({"faults", *counts})}
            if frames:
                out[f"level/{name}/frames_share"] = counts["env_frames"] / frames
        return out

    def state(self) -> list[dict[str, int]]:
        """For a checkpoint."""
        return [dict(counts) for counts in self._counts]

    def load_state(self, state: Sequence[Mapping[str, int]]) -> None:
        """Continue from `state()`."""
        self._counts = [Counter(counts) for counts in state]


class Means:
    """Means (and maxima of keys ending in _max) of what was added since the last `take`."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value to each key."""
        for key, value in values.items():
            if not math.isfinite(value):  # of a skipped update, which is counted
                continue
            self._values[key].append(value)

    def take(self) -> dict[str, float]:
        """The means, and begin anew."""
        out = {
            key: max(values) if key.endswith("_max") else sum(values) / len(values)
            for key, values in self._values.items()
        }
        self._values.clear()
        return out


def _trim(file: Path, env_frames: int) -> None:
    """Drop records later than `env_frames`, and a last line that was not written to its end."""
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["env_frames"] <= env_frames:
                kept.append(line if line.endswith("\n") else line + "\n")
        except ValueError:
            continue
    write_atomically(file, "".join(kept))


class MetricsWriter:
    """metrics.jsonl and TensorBoard of a run; env_frames is the x-axis."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        """`resumed_at`: env frames of the checkpoint gone on from; later records were lost with the weights."""
        file, purge = folder / "metrics.jsonl", None
        if resumed_at is not None:
            purge = resumed_at + 1
            if file.exists():
                _trim(file, resumed_at)
        self._file = open(file, "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge, flush_secs=10)
        self._newest = resumed_at or 0

    def write(self, record: Mapping[str, float]) -> None:
        """One line, whole, and one point of every scalar; values that are not finite are left out."""
        finite = {k: v for k, v in record.items() if math.isfinite(v)}
        self._newest = int(record["env_frames"])
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        # All in one event: a fifth of the time that as many calls of add_scalar take.
        values = [
            Summary.Value(tag=key if "/" in key else f"run/{key}", simple_value=value)
            for key, value in finite.items()
        ]
        self._board._get_file_writer().add_summary(Summary(value=values), self._newest)

    def hparams(self, values: Mapping[str, float | str], metric: str) -> None:
        """A row of TensorBoard's table of hyperparameters, with this scalar beside it."""
        for summary in hparams(dict(values), {metric: 0.0}):
            self._board._get_file_writer().add_summary(summary)

    def layout(self, levels: Sequence[str]) -> None:
        """TensorBoard's custom scalars: what belongs together in one chart each."""
        kinds = dict.fromkeys(family(level) for level in levels)
        by_kind = {
            f"{what} {kind}".strip(): ["Multiline", [rf"^level/(.*/)?{_named(kind)}/{key}$"]]
            for kind in (kinds if len(kinds) < len(levels) else [""])
            for what, key in (("score", "score"), ("return", "return_mean"))
        }
        self._board.add_custom_scalars(
            {
                "scores": {"mean capped score": ["Multiline", ["score/capped_mean"]], **by_kind},
                "learner": {
                    "losses": ["Multiline", ["loss/policy", "loss/value"]],
                    "entropy": ["Multiline", ["loss/entropy"]],
                    "gradient": ["Multiline", ["learner/grad_norm"]],
                },
                "throughput": {
                    "frames a second": ["Multiline", ["run/fps", "run/learner_fps"]],
                    "seconds of an update": ["Multiline", ["time/(forward|backward|optimizer|stack|update)_s"]],
                    "seconds of an unroll": ["Multiline", ["time/actor_.*"]],
                },
                "actors": {
                    "alive and restarted": ["Multiline", ["actors/(alive|restarts|given_up)"]],
                    "faults": ["Multiline", ["actors/faults"]],
                },
                "lag": {"of batches": ["Multiline", ["run/lag_(mean|max)"]],
                        "of levels": ["Multiline", [r"level/.*/lag_mean"]]},
                "resources": {"of the driver's machine": ["Multiline", ["machine/.*"]]},
            }
        )  # fmt: skip

    def sample(self, name: str, found: RolloutPreview) -> None:
        """Frames of a level, and histograms of what the head makes of them, at the newest record."""
        if found.frames is not None:
            self._board.add_image(f"samples/{name}", _sheet(found.frames), self._newest, dataformats="HWC")
        for kind, vectors in found.vectors.items():
            if np.isfinite(vectors).all():
                self._board.add_histogram(f"agent/{kind}/{name}", vectors, self._newest)

    def event(self, kind: str, details: Mapping[str, object]) -> None:
        """A text in TensorBoard, at the newest record."""
        self._board.add_text(f"events/{kind}", json.dumps(details), self._newest)

    def text(self, tag: str, text: str) -> None:
        """A text in TensorBoard."""
        self._board.add_text(tag, text)

    def close(self) -> None:
        """Flush to disk."""
        os.fsync(self._file.fileno())
        self._file.close()
        self._board.close()


def _named(kind: str) -> str:
    """A pattern of the names of a family's levels, or of all."""
    return rf"{re.escape(kind)}([_-][^/]*)?" if kind else "[^/]*"


def _sheet(frames: np.ndarray) -> np.ndarray:
    """[N, h, w, c] to a picture with four in a row."""
    rows = -(-len(frames) // 4)
    padded = np.concatenate([frames, np.zeros((4 * rows - len(frames), *frames.shape[1:]), frames.dtype)])
    _, h, w, c = padded.shape
    sheet = padded.reshape(rows, 4, h, w, c).swapaxes(1, 2).reshape(rows * h, 4 * w, c)
    return sheet if c == 3 else sheet[..., :1]
