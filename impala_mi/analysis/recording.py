"""Steps that an agent played, with the core's state, the context and the generated weights at each."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from impala_mi.analysis.play import OnEpisode, max_columns, play
from impala_mi.envs.base import Game, Observation, Outcome, RemoteGame, Suite
from impala_mi.host.files import replacing
from impala_mi.nn.agent import Action, Agent
from impala_mi.tokenizer import tokenize
from impala_mi.types import AgentInput

THUMBNAIL = 48
"""Most pixels of the longer side of a kept frame."""
_CHUNK = 1024
"""Steps whose vectors are computed together."""


def octave(time: np.ndarray) -> np.ndarray:
    """Octave [N] of agent steps since the start of the episode: 0, 1, 2-3, 4-7, 8-15, ..."""
    return np.frexp(time)[1]


@dataclass(frozen=True)
class Recording:
    """N steps, sorted by level; those of a level are spread evenly over the octaves of time."""

    names: list[str]
    """Names of the levels."""
    level: np.ndarray
    """Index [N] of the level."""
    episode: np.ndarray
    """Number [N] of the episode, counted over all levels."""
    time: np.ndarray
    """Agent steps [N] since the episode started."""
    instruction: np.ndarray
    """Instructions [N]."""
    frame: np.ndarray | None
    """Small frames [N, h, w, c] uint8; None if observations are vectors."""
    vectors: dict[str, np.ndarray]
    """Vectors [N, D] float32 by kind: `core`, the core's output; with a multiplicative head also `context`, and
    `policy` and `value`, the flattened generated weights W'."""

    @property
    def default(self) -> str:
        """Kind of vectors to draw by default."""
        return next(kind for kind in ("policy", "value", "core") if kind in self.vectors)

    def save(self, file: Path, **extra: np.ndarray) -> None:
        """Save as an .npz without pickles, together with extra arrays."""
        arrays = {k: getattr(self, k) for k in ("level", "episode", "time", "instruction")} | self.vectors | extra
        if self.frame is not None:
            arrays["frame"] = self.frame
        with replacing(file) as aside, open(aside, "wb") as opened:
            np.savez_compressed(opened, names=np.array(self.names), **arrays)


@dataclass
class _KeptStep:
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
    picture: Callable[[np.ndarray], np.ndarray]
    clock: np.ndarray
    number: np.ndarray
    episodes: int = 0
    seen: dict[tuple[int, int], int] = field(default_factory=dict)
    kept: dict[tuple[int, int], list[_KeptStep]] = field(default_factory=dict)

    def __call__(self, columns: np.ndarray, inputs: AgentInput, action: Action) -> None:
        self.clock[columns] = np.where(inputs.first, 0, self.clock[columns] + 1)
        starting = columns[inputs.first]
        self.number[starting] = self.episodes + np.arange(len(starting))
        self.episodes += len(starting)
        octaves = octave(self.clock[columns])
        for row, column in enumerate(columns):
            key = (int(inputs.level[row]), int(octaves[row]))
            seen = self.seen.get(key, 0)
            self.seen[key] = seen + 1
            place = seen if seen < self.limit else int(self.rng.integers(seen + 1))
            if place >= self.limit:
                continue
            step = _KeptStep(
                int(self.clock[column]), int(self.number[column]), action.core[row].numpy().copy(),
                thumbnail(self.picture(inputs.frame[row])) if inputs.frame.ndim == 4 else None,
                inputs.tokens[row].tobytes(),
            )  # fmt: skip
            kept = self.kept.setdefault(key, [])
            if place < len(kept):
                kept[place] = step
            else:
                kept.append(step)

    def steps(self, points: int) -> list[tuple[int, _KeptStep]]:
        """Steps with the index of their level: at most `points` of each level, spread evenly over the octaves."""
        chosen = []
        for level in sorted({level for level, _ in self.kept}):
            turns = [
                (turn, steps[place])
                for (k, _), steps in self.kept.items()
                if k == level
                for turn, place in enumerate(self.rng.permutation(len(steps)))
            ]
            turns.sort(key=lambda pair: pair[0])
            own = sorted((step for _, step in turns[:points]), key=lambda step: (step.episode, step.time))
            chosen += [(level, step) for step in own]
        return chosen


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """Smaller copy of a frame [h, w, c] with every n-th pixel."""
    n = -(-max(frame.shape[:2]) // THUMBNAIL)
    return frame[::n, ::n].copy()


def rgb(frame: np.ndarray) -> np.ndarray:
    """Frames [..., h, w, c] with three channels; of any other number the first channel is shown as grey."""
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
    rng = np.random.default_rng(seed)
    recorder = _Recorder(limit, rng, suite.picture, np.zeros(width, np.int64), np.zeros(width, np.int64))
    noted, words = note_instructions(suite, agent.config.instruction_tokens)
    with torch.inference_mode():
        play(agent, noted, episodes, seed, greedy=greedy, on_step=recorder, on_episode=on_episode)
        steps = recorder.steps(points)
        level = np.array([level for level, _ in steps])
        vectors = head_vectors(agent, np.stack([step.core for _, step in steps]), level)
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


@torch.no_grad()
def head_vectors(agent: Agent, core: np.ndarray, level: np.ndarray) -> dict[str, np.ndarray]:
    """`Recording.vectors` for the core's outputs [N, H] and level indices [N]."""
    parts: dict[str, list[np.ndarray]] = {"core": [core]}
    for start in range(0, len(core), _CHUNK):
        h, k = torch.from_numpy(core[start : start + _CHUNK]), torch.from_numpy(level[start : start + _CHUNK])
        for name, vectors in agent.head.vectors(h, k).items():
            parts.setdefault(name, []).append(vectors.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


class _NotedGame:
    """A game whose instructions are noted, as the agent gets only their tokens."""

    def __init__(self, game: Game, note: Callable[[str], Any]) -> None:
        self._game, self._note = game, note

    def __getattr__(self, name: str) -> Any:  # other methods of the game
        return getattr(self._game, name)

    def reset(self, seed: int) -> Observation:
        observation = self._game.reset(seed)
        self._note(observation.instruction)
        return observation

    def step(self, action: int) -> Outcome:
        return self._noted(self._game.step(action))

    def finish_step(self) -> Outcome:  # of a game in a process of its own
        return self._noted(cast(RemoteGame, self._game).finish_step())

    def _noted(self, outcome: Outcome) -> Outcome:
        if outcome.observation is not None:
            self._note(outcome.observation.instruction)
        return outcome

    def close(self) -> None:
        self._game.close()


def note_instructions(suite: Suite, length: int) -> tuple[Suite, dict[bytes, str]]:
    """The suite, and a dict that its games fill with instructions by the bytes of their tokens (`length` words)."""
    words: dict[bytes, str] = {}
    known: set[str] = set()

    def note(instruction: str) -> None:
        if instruction not in known:
            known.add(instruction)
            words[tokenize(instruction, length).tobytes()] = instruction

    if not suite.spaces.instructions:
        return suite, words
    return replace(suite, make_game=lambda name: _NotedGame(suite.make_game(name), note), make_batch=None), words
