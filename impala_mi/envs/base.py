"""The environment contract.

A suite's author writes a `Game`: one level as it is. `Environment` makes of it what actors step: episodes that
follow each other, seeds, action repeats counted, returns. `Suite` names the levels and makes their games.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.errors import TrainingError
from impala_mi.types import EnvStats, Episode, Fault, Spaces

MOST_FAULTS = 10
"""In a row, after which a level that may be given up is."""
LONGEST_PAUSE_S = 60.0
"""Between attempts to start a game that faults again and again."""
FORGIVEN_STEPS = 100
"""Steps of an episode, or its end, after which earlier faults make no pause longer."""


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


GiveUp = Literal["never", "first", "always"]
"""Whether a level is given up that faults again and again: never, while it has not yet worked, or always."""


class GameFault(Exception):
    """A game died, hung or failed. Its episode is lost; the next `reset` starts it anew."""

    def __init__(self, kind: Literal["crash", "hang", "error"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LevelBroken(TrainingError):
    """A level does not work on this machine."""

    def __init__(self, level: int, message: str) -> None:
        super().__init__(level, message)  # as it travels between processes
        self.level = level

    def __str__(self) -> str:
        return str(self.args[1])


class Game(Protocol):
    """One level of a suite.

    `reset` and `step` may raise `GameFault`, which costs the episode; anything else costs the actor. Nothing is
    called after `close`. Two more methods are optional: `counts() -> dict[str, int]`, what the game counted since
    the last call (hits of a cache for example), and `interrupt()`, called by another thread before `close`, after
    which a call in progress should raise.
    """

    def reset(self, seed: int) -> Observation:
        """Start an episode. The same seed gives the same episode where the game allows it."""
        ...

    def step(self, action: int) -> Outcome:
        """Hold an action for the action repeat; rewards of the frames are summed."""
        ...

    def close(self) -> None:
        """Free processes and files; called once."""
        ...


def counts_of(game: Game) -> dict[str, int]:
    """What the game counted since the last call, if it counts."""
    counts: Callable[[], dict[str, int]] = getattr(game, "counts", dict)
    return counts()


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
    """Threads that step an actor's environments, for games that wait for a process of their own."""
    alternate: bool = False
    """Step one half of an actor's environments while the network acts for the other: for games whose own process
    does all the work. What they do in the actor's would stand in the network's way."""
    scores_note: str = ""
    """Which random and reference scores these are, where there is a choice."""
    variant: str = ""
    """Which levels these are, training or held-out, where the suite has both."""
    held_out: Callable[[], "Suite"] | None = None
    """The same levels in their variants for evaluation, where the suite has such."""
    check: Callable[[], None] = lambda: None
    """Raises `UserError` where this machine cannot play the levels; called once, before anything starts."""

    @property
    def level_names(self) -> list[str]:
        """In the order of the level indices."""
        return [level.name for level in self.levels]

    def make_environment(self, level: int, seeds: EpisodeSeeds, give_up: GiveUp) -> "Environment":
        """An environment of the level with that index; the other arguments are those of `Environment`."""
        game = self.make_game(self.levels[level].name)
        return Environment(game, level, seeds, self.truncation_is_terminal, give_up)

    def assign_seeds(self, root: Sequence[int], levels: Sequence[int]) -> list[EpisodeSeeds]:
        """Seeds for environments of the levels with those indices; no two play the same episode of a level."""
        total, before = Counter(levels), Counter[int]()
        seeds = []
        for k in levels:
            seeds.append(EpisodeSeeds(root, self.levels[k].name, first=before[k], stride=total[k]))
            before[k] += 1
        return seeds


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

    A fault of the game cuts its episode off at the observation before it: the value of that observation stands for
    the rest, and the episode does not count for the scores. A game that faults again and again is tried again and
    again, ever less often, or given up.

    Args:
        game: what is played; closed with the environment.
        level: its index, for whoever reads the episodes.
        seeds: of the episodes.
        truncation_is_terminal: see `Suite`.
        give_up: whether `MOST_FAULTS` in a row raise `LevelBroken`.
    """

    def __init__(
        self,
        game: Game,
        level: int,
        seeds: EpisodeSeeds,
        truncation_is_terminal: bool,
        give_up: GiveUp = "first",
    ) -> None:
        self.level = level
        self._game = game
        self._seeds = seeds
        self._truncation_is_terminal = truncation_is_terminal
        self._seed = 0
        self._return, self._length = 0.0, 0
        self._give_up, self._worked, self._faults_in_a_row = give_up, False, 0
        self._interrupted = threading.Event()
        self._upkeep, self._faults = EnvStats(level), deque[Fault]()

    def reset(self, seed: int | None = None) -> Step:
        """Start the next episode, of this seed or the next of its own; what was running is forgotten.

        Raises `LevelBroken` where the level is given up.
        """
        began = time.monotonic()
        while True:
            if self._interrupted.is_set():
                raise RuntimeError("interrupted")
            self._seed, seed = (self._seeds.take() if seed is None else seed), None
            try:
                self._shown = self._game.reset(self._seed)
                break
            except GameFault as fault:
                self._count(fault)
        self._return, self._length = 0.0, 0
        self._upkeep.reset_s.append(time.monotonic() - began)
        return Step(self._shown, first=True)

    def step(self, action: int, again: bool = True) -> Step:
        """Act; raises whatever the game raises but `GameFault`, and what `reset` raises.

        Without `again`, an episode that ends is not followed by another until `reset`: the observation that comes
        with its end is the last one seen.
        """
        try:
            observation, reward, terminated, truncated = self._game.step(action)
        except GameFault as fault:
            self._count(fault)
            final = self._shown
            return Step(self.reset().observation, truncated=True, first=True, final_observation=final)
        self._return += reward
        self._length += 1
        if self._length >= FORGIVEN_STEPS or terminated or truncated:
            self._worked, self._faults_in_a_row = True, 0
        if not (terminated or truncated):
            assert observation is not None
            self._shown = observation
            return Step(observation, reward)
        if truncated and (observation is None or self._truncation_is_terminal):
            terminated = True  # without a final observation there is nothing to bootstrap from
        episode = Episode(self.level, self._return, self._length)
        final_observation = None if terminated else observation
        following = self.reset().observation if again else self._shown
        return Step(following, reward, terminated, not terminated, True, episode, final_observation)

    def _count(self, fault: GameFault) -> None:
        """Count a fault, and wait the longer the more there were without a good stretch between them."""
        self._faults.append(Fault(self._seed, fault.kind, str(fault)))
        self._faults_in_a_row += 1
        hopeless = self._give_up == "always" or (self._give_up == "first" and not self._worked)
        if hopeless and self._faults_in_a_row >= MOST_FAULTS:
            raise LevelBroken(self.level, f"a level failed {MOST_FAULTS} times in a row: {fault}")
        if self._faults_in_a_row > 1:
            self._interrupted.wait(min(2.0 ** min(self._faults_in_a_row - 2, 9), LONGEST_PAUSE_S))

    def take_faults(self) -> list[Fault]:
        """Faults since the last call; another thread may ask while this one waits for the game."""
        return [self._faults.popleft() for _ in range(len(self._faults))]

    def take_stats(self) -> EnvStats:
        """What happened beside steps since the last call."""
        env_stats, self._upkeep = self._upkeep, EnvStats(self.level)
        env_stats.faults.extend(self.take_faults())
        env_stats.counts.update(counts_of(self._game))
        return env_stats

    def interrupt(self) -> None:
        """Have another thread that waits for the game or pauses after faults raise `RuntimeError` soon."""
        self._interrupted.set()
        interrupt: Callable[[], None] = getattr(self._game, "interrupt", lambda: None)
        interrupt()

    def close(self) -> None:
        """Free the game."""
        self._game.close()


def __getattr__(name: str) -> Any:
    """`check_game` under its documented import path; it lives in `envs.conformance`, which imports this module."""
    if name == "check_game":
        from impala_mi.envs.conformance import check_game

        return check_game
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
