"""Steps that an agent played, and what it made of them: the core's state, the context, the generated weights."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from impala_mi.analysis.play import OnEpisode, max_columns, play
from impala_mi.envs.base import Game, Observation, Outcome, Suite
from impala_mi.nn.agent import Action, Agent
from impala_mi.tokenizer import tokenize
from impala_mi.types import AgentInput

THUMBNAIL = 48
"""Pixels that the longer side of a kept frame has at most."""
_AT_ONCE = 1024


def octave(time: np.ndarray) -> np.ndarray:
    """[N] octave of agent steps since the start of the episode: 0, 1, 2-3, 4-7, 8-15, ..."""
    return np.frexp(time)[1]


@dataclass(frozen=True)
class Recording:
    """N steps, by level; of each level evenly over the octaves of time."""

    names: list[str]
    """Of the levels."""
    level: np.ndarray
    """[N] index of the level."""
    episode: np.ndarray
    """[N] number of the episode, over all levels."""
    time: np.ndarray
    """[N] agent steps since the episode started."""
    instruction: np.ndarray
    """[N] words."""
    frame: np.ndarray | None
    """[N, h, w, c] uint8 small frames; None where observations are vectors."""
    vectors: dict[str, np.ndarray]
    """[N, D] float32 each: `core`, the LSTM's output; with a multiplicative head also `context`, and `policy` and
    `value`, the generated weights W', flattened."""

    @property
    def default(self) -> str:
        """Which vectors to look at first."""
        return next(kind for kind in ("policy", "value", "core") if kind in self.vectors)

    def save(self, file: Path, **more: np.ndarray) -> None:
        """As an .npz without pickles, with other arrays beside."""
        arrays = {k: getattr(self, k) for k in ("level", "episode", "time", "instruction")} | self.vectors | more
        if self.frame is not None:
            arrays["frame"] = self.frame
        np.savez_compressed(file, names=np.array(self.names), **arrays)


@dataclass
class _Step:
    time: int
    episode: int
    core: np.ndarray
    frame: np.ndarray | None
    tokens: bytes


@dataclass
class _Recorder:
    """Keeps at most `limit` steps of each level and octave, at random among those seen (reservoir sampling)."""

    limit: int
    rng: np.random.Generator
    clock: np.ndarray
    number: np.ndarray
    episodes: int = 0
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    kept: dict[tuple[int, int], list[_Step]] = field(default_factory=dict)

    def __call__(self, columns: np.ndarray, inputs: AgentInput, action: Action) -> None:
        self.clock[columns] = np.where(inputs.first, 0, self.clock[columns] + 1)
        begun = columns[inputs.first]
        self.number[begun] = self.episodes + np.arange(len(begun))
        self.episodes += len(begun)
        octaves = octave(self.clock[columns])
        for row, column in enumerate(columns):
            key = (int(inputs.level[row]), int(octaves[row]))
            seen = self.seen.get(key, 0)
            self.seen[key] = seen + 1
            place = seen if seen < self.limit else int(self.rng.integers(seen + 1))
            if place >= self.limit:
                continue
            step = _Step(
                int(self.clock[column]), int(self.number[column]), action.core[row].numpy().copy(),
                thumbnail(inputs.frame[row]) if inputs.frame.ndim == 4 else None, inputs.tokens[row].tobytes(),
            )  # fmt: skip
            kept = self.kept.setdefault(key, [])
            if place < len(kept):
                kept[place] = step
            else:
                kept.append(step)

    def steps(self, points: int) -> list[tuple[int, _Step]]:
        """At most so many of each level, with its index: as many of each octave as there are."""
        chosen = []
        for level in sorted({level for level, _ in self.kept}):
            turns = [
                (turn, steps[place])
                for (k, _), steps in self.kept.items()
                if k == level
                for turn, place in enumerate(self.rng.permutation(len(steps)))
            ]
            turns.sort(key=lambda pair: pair[0])
            mine = sorted((step for _, step in turns[:points]), key=lambda step: (step.episode, step.time))
            chosen += [(level, step) for step in mine]
        return chosen


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A smaller copy of a frame [h, w, c]; every n-th pixel."""
    n = -(-max(frame.shape[:2]) // THUMBNAIL)
    return frame[::n, ::n].copy()


def rgb(frame: np.ndarray) -> np.ndarray:
    """Frames [..., h, w, c] with three channels; of others than three the first is shown as grey."""
    return frame if frame.shape[-1] == 3 else np.repeat(frame[..., :1], 3, axis=-1)


def record(
    agent: Agent,
    suite: Suite,
    episodes: int,
    points: int,
    seed: int,
    on_episode: OnEpisode | None = None,
    greedy: bool = False,
) -> Recording:
    """Play `episodes` of every level and keep about `points` steps of each."""
    width = max_columns(suite)
    limit = max(1, points // 4)  # most episodes have more octaves
    recorder = _Recorder(limit, np.random.default_rng(seed), np.zeros(width, np.int64), np.zeros(width, np.int64))
    listening, words = hear(suite, agent.config.instruction_tokens)
    with torch.inference_mode():
        play(agent, listening, episodes, seed, greedy=greedy, on_step=recorder, on_episode=on_episode)
        steps = recorder.steps(points)
        level = np.array([level for level, _ in steps])
        vectors = look(agent, np.stack([step.core for _, step in steps]), level)
    frames = [step.frame for _, step in steps if step.frame is not None]
    return Recording(
        names=suite.level_names,
        level=level,
        episode=np.array([step.episode for _, step in steps]),
        time=np.array([step.time for _, step in steps]),
        instruction=np.array([words.get(step.tokens, "") for _, step in steps]),
        frame=np.stack(frames) if frames else None,
        vectors=vectors,
    )


def look(agent: Agent, core: np.ndarray, level: np.ndarray) -> dict[str, np.ndarray]:
    """`Recording.vectors` of the core's outputs [N, H] and level indices [N]."""
    parts: dict[str, list[np.ndarray]] = {"core": [core]}
    for start in range(0, len(core), _AT_ONCE):
        h, k = torch.from_numpy(core[start : start + _AT_ONCE]), torch.from_numpy(level[start : start + _AT_ONCE])
        for name, vectors in agent.head.vectors(h, k).items():
            parts.setdefault(name, []).append(vectors.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


class _Heard:
    """A game whose instructions are noted by their tokens; the agent is told those alone."""

    def __init__(self, game: Game, note: Callable[[str], Any]) -> None:
        self._game, self._note = game, note

    def __getattr__(self, name: str) -> Any:  # what games may have besides
        return getattr(self._game, name)

    def reset(self, seed: int) -> Observation:
        observation = self._game.reset(seed)
        self._note(observation.instruction)
        return observation

    def step(self, action: int) -> Outcome:
        outcome = self._game.step(action)
        if outcome.observation is not None:
            self._note(outcome.observation.instruction)
        return outcome

    def close(self) -> None:
        self._game.close()


def hear(suite: Suite, length: int) -> tuple[Suite, dict[bytes, str]]:
    """The suite, and what its games will have said, by the bytes of the tokens (of `length` words)."""
    words: dict[bytes, str] = {}
    known: set[str] = set()

    def note(instruction: str) -> None:
        if instruction not in known:
            known.add(instruction)
            words[tokenize(instruction, length).tobytes()] = instruction

    if not suite.spaces.instructions:
        return suite, words
    return replace(suite, make_game=lambda name: _Heard(suite.make_game(name), note)), words
