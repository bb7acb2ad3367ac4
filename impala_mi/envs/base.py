"""The environment contract.

A suite's author writes a `Game`: one level as it is. `Environment` makes of it what actors step: episodes that
follow each other, seeds, action repeats counted, returns. `Suite` names the levels and makes their games.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from impala_mi.errors import UserError
from impala_mi.types import Episode, Spaces


class Observation(NamedTuple):
    """What a level shows."""

    frame: np.ndarray
    """[height, width, channels] uint8 or [features] float32."""
    instruction: str = ""


class Outcome(NamedTuple):
    """What an action brought in a game."""

    observation: Observation | None
    """What follows; at the end of an episode the final observation, or None where the game has none."""
    reward: float
    terminated: bool = False
    """The episode ended: nothing more could be earned."""
    truncated: bool = False
    """The episode was cut off, by a time limit for example."""


class Game(Protocol):
    """One level of a suite. Any method may raise; nothing is called after `close`."""

    def reset(self, seed: int) -> Observation:
        """Start an episode. The same seed gives the same episode where the game allows it."""
        ...

    def step(self, action: int) -> Outcome:
        """Hold an action for the action repeat; rewards of the frames are summed."""
        ...

    def close(self) -> None:
        """Free processes and files; called once."""
        ...


@dataclass(frozen=True)
class Level:
    """A level and what its scores mean."""

    name: str
    random_score: float | None = None
    """Mean unclipped return of uniformly random actions."""
    reference_score: float | None = None
    """The return that counts as 100."""
    reference_source: str = ""
    reward_scale: float = 1.0
    """Multiplies rewards for learning, never for scores."""


@dataclass(frozen=True)
class Suite:
    """Named levels with common spaces, and a maker that runs in the actor's process."""

    name: str
    levels: tuple[Level, ...]
    spaces: Spaces
    actions: tuple[str, ...]
    """Names of the actions."""
    make_game: Callable[[str], Game]
    action_repeat: int = 1
    """Env frames in an agent step."""
    truncation_is_terminal: bool = False
    """Treat a cut-off as an end, as published DMLab results do; otherwise it bootstraps."""
    step_threads: int = 1
    """Threads that step an actor's environments, for games that wait on a process of their own."""

    @property
    def level_names(self) -> list[str]:
        """In the order of the level indices."""
        return [level.name for level in self.levels]

    def make_environment(self, level: int, seed: np.random.SeedSequence) -> "Environment":
        """An environment of the level with that index."""
        return Environment(self.make_game(self.levels[level].name), level, seed, self.truncation_is_terminal)


class Step(NamedTuple):
    """What an environment answers: the observation to act on next, and what the action before it brought."""

    observation: Observation
    """At an end already the first of the next episode."""
    reward: float = 0.0
    """Unscaled and unclipped, of the episode that the action belonged to."""
    terminated: bool = False
    truncated: bool = False
    first: bool = False
    """The observation starts an episode."""
    episode: Episode | None = None
    """The episode that ended with this step."""
    final_observation: Observation | None = None
    """Of an episode that was truncated."""


class Environment:
    """A game whose episodes follow each other: the end of one and the start of the next are the same step.

    Seeds of episodes come from `seed` alone: the n-th episode has the same seed in every process.
    """

    def __init__(self, game: Game, level: int, seed: np.random.SeedSequence, truncation_is_terminal: bool) -> None:
        self.level = level
        self._game = game
        self._seed = seed
        self._truncation_is_terminal = truncation_is_terminal
        self._return, self._length = 0.0, 0

    def reset(self) -> Step:
        """Start the next episode; what was running is forgotten."""
        child = np.random.SeedSequence(
            entropy=self._seed.entropy, spawn_key=(*self._seed.spawn_key, self._seed.n_children_spawned)
        )
        self._seed.spawn(1)
        self._return, self._length = 0.0, 0
        return Step(self._game.reset(int(child.generate_state(1)[0] >> 1)), first=True)

    def step(self, action: int) -> Step:
        """Act; raises whatever the game raises."""
        observation, reward, terminated, truncated = self._game.step(action)
        self._return += reward
        self._length += 1
        if not (terminated or truncated):
            assert observation is not None
            return Step(observation, reward)
        if truncated and (observation is None or self._truncation_is_terminal):
            terminated = True  # without a final observation there is nothing to bootstrap from
        episode = Episode(self.level, self._return, self._length)
        final = None if terminated else observation
        return Step(self.reset().observation, reward, terminated, not terminated, True, episode, final)

    def close(self) -> None:
        """Free the game."""
        self._game.close()


def check_game(suite: Suite, level: str, steps: int = 200, seed: int = 1) -> None:
    """The conformance check: play a level at random and hold it to the contract.

    Raises `UserError` that says what is wrong. Every suite's tests run it on every level.
    """

    def expect(good: bool, what: str) -> None:
        if not good:
            raise UserError(f"suite {suite.name!r}, level {level!r}: {what}")

    def check(observation: Any) -> None:
        frame, spaces = observation.frame, suite.spaces
        expect(isinstance(frame, np.ndarray), f"a frame must be a NumPy array, not {type(frame).__name__}")
        shape, dtype = tuple(frame.shape), frame.dtype.name
        expect(shape == spaces.frame_shape, f"frame of shape {shape}, the suite says {spaces.frame_shape}")
        expect(dtype == spaces.frame_dtype, f"frame of dtype {dtype}, the suite says {spaces.frame_dtype}")
        expect(isinstance(observation.instruction, str), "the instruction must be a str")
        expect(spaces.instructions or not observation.instruction, "an instruction, but the suite says none")

    expect(level in suite.level_names, f"no such level; there are {', '.join(suite.level_names)}")
    expect(suite.spaces.num_levels == len(suite.levels), "spaces.num_levels is not the number of levels")
    expect(suite.spaces.num_actions == len(suite.actions), "spaces.num_actions is not the number of actions")
    rng = np.random.default_rng(seed)
    game = suite.make_game(level)
    try:
        opening = game.reset(seed)
        check(opening)
        kept = opening.frame.copy()
        shown, ended = opening.frame, False
        for _ in range(steps):
            outcome = game.step(int(rng.integers(suite.spaces.num_actions)))
            expect(isinstance(outcome.reward, float), f"a reward must be a float, not {type(outcome.reward).__name__}")
            expect(bool(np.isfinite(outcome.reward)), f"a reward of {outcome.reward}")
            expect(not (outcome.terminated and outcome.truncated), "both terminated and truncated")
            expect(np.array_equal(shown, kept), "a frame was overwritten by the next step; return a copy")
            ended = outcome.terminated or outcome.truncated
            if outcome.observation is None:
                expect(ended, "no observation in the middle of an episode")
                shown, kept = kept, kept
            else:
                check(outcome.observation)
                shown, kept = outcome.observation.frame, outcome.observation.frame.copy()
            if ended:
                check(game.reset(seed + 1))
        again = game.reset(seed)
        expect(np.array_equal(again.frame, opening.frame), "the same seed gave another first frame")
        expect(again.instruction == opening.instruction, "the same seed gave another instruction")
    finally:
        game.close()
