"""Generated weights: what a multiplicative head makes of each step that it plays."""

from dataclasses import dataclass, field

import numpy as np
import torch

from impala_mi.analysis.play import OnEpisode, most_columns, play
from impala_mi.envs.base import Suite
from impala_mi.errors import UserError
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput


@dataclass
class GeneratedWeights:
    """N recorded steps."""

    weights: np.ndarray
    """[N, D] float32: W' of the policy, or of the value where only that is multiplicative, flattened."""
    level: np.ndarray
    """[N] index of the level."""
    time: np.ndarray
    """[N] agent steps since the episode started."""


@dataclass
class _Recorder:
    """Keeps at most `limit` steps of each level, spread evenly over those seen (reservoir sampling)."""

    agent: Agent
    limit: int
    rng: np.random.Generator
    clock: np.ndarray
    seen: dict[int, int] = field(default_factory=dict)
    kept: dict[int, list[tuple[int, np.ndarray]]] = field(default_factory=dict)

    def __call__(self, columns: np.ndarray, inputs: AgentInput, action: Action) -> None:
        self.clock[columns] = np.where(inputs.first, 0, self.clock[columns] + 1)
        chosen, places = [], []
        for row, level in enumerate(inputs.level.tolist()):
            seen = self.seen.get(level, 0)
            self.seen[level] = seen + 1
            place = seen if seen < self.limit else int(self.rng.integers(seen + 1))
            if place < self.limit:
                chosen.append(row)
                places.append(place)
        if not chosen:
            return
        levels = torch.from_numpy(inputs.level[chosen])
        generated = self.agent.head.generate(action.core[chosen], levels)
        weights = generated.get("policy", generated.get("value"))
        assert weights is not None
        for row, place, weight in zip(chosen, places, weights.weight.flatten(1).numpy(), strict=True):
            kept = self.kept.setdefault(int(inputs.level[row]), [])
            entry = (int(self.clock[columns[row]]), weight.copy())
            if place < len(kept):
                kept[place] = entry
            else:
                kept.append(entry)


def record(
    agent: Agent, suite: Suite, episodes: int, points: int, seed: int, on_episode: OnEpisode | None = None
) -> GeneratedWeights:
    """Play `episodes` of every level and keep the generated weights of about `points` steps of each.

    Raises `UserError` where the head generates no weights.
    """
    if agent.head.context is None:
        raise UserError(
            f"agent.head={agent.head.kind!r} generates no weights; train with agent.head=mi_context or mi_task"
        )
    recorder = _Recorder(agent, points, np.random.default_rng(seed), np.zeros(most_columns(suite), np.int64))
    with torch.inference_mode():
        play(agent, suite, episodes, seed, on_step=recorder, on_episode=on_episode)
    levels = sorted(recorder.kept)
    return GeneratedWeights(
        weights=np.stack([w for k in levels for _, w in recorder.kept[k]]),
        level=np.array([k for k in levels for _ in recorder.kept[k]]),
        time=np.array([t for k in levels for t, _ in recorder.kept[k]]),
    )
