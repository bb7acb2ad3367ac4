"""The environment contract.

The author of a suite writes a `Game`, which plays one level, and a `Suite`, which names the levels and makes games.
`Environment` wraps a game for the actors: it resets after each episode, draws seeds, sums returns, handles faults.
An engine that steps many games at once is a `GameBatch`, which `batch.BatchPlayers` plays in the same way.
"""

import functools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from impala_mi.envs.faults import FORGIVE_AFTER_STEPS, HANGS_OF_A_SEED, FaultLog
from impala_mi.envs.faults import GameFault as GameFault
from impala_mi.envs.faults import GiveUp as GiveUp
from impala_mi.envs.faults import LevelBroken as LevelBroken
from impala_mi.envs.game_batch import BatchOutcome as BatchOutcome
from impala_mi.envs.game_batch import GameBatch as GameBatch
from impala_mi.envs.game_batch import MakeBatch as MakeBatch
from impala_mi.envs.outcome_checks import FrameBounds, OutcomeChecks
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.errors import TrainingError
from impala_mi.types import EnvStats, Episode, Fault, Spaces


class Observation(NamedTuple):
    """Frame and instruction that a level shows."""

    frame: np.ndarray
    """[height, width, channels] uint8 or [features] float32."""
    instruction: str = ""


class Outcome(NamedTuple):
    """Result of an action in a game."""

    observation: Observation | None
    """The next observation; at the end of an episode the final one, or None if the game has none."""
    reward: float
    terminated: bool = False
    """The episode ended: no further reward was possible."""
    truncated: bool = False
    """The episode was cut off, for example by a time limit."""


class Game(Protocol):
    """One level of a suite.

    `reset` and `step` may raise `GameFault`, which loses the episode; the game must then be able to `reset`. Any
    other exception but `TrainingError` and `UserError`, which end the run, loses the episode too, and the game is
    closed and made anew. No method is called after `close`. Two methods are optional: `counts() -> dict[str, int]`
    returns counters since the last call (cache hits, for example); `interrupt()` is called by another thread before
    `close` and should make a call in progress raise. So is an attribute: `bounds`, the smallest and the largest
    numbers of frames, two arrays [*frame_shape] of the frames' dtype.
    """

    def reset(self, seed: int) -> Observation:
        """Start an episode. The same seed gives the same episode if the game allows it."""
        ...

    def step(self, action: Any) -> Outcome:
        """Repeat an action for the action repeat and sum the rewards of its frames."""
        ...

    def close(self) -> None:
        """Free processes and files; called once."""
        ...


class RemoteGame(Game, Protocol):
    """A game that works in another process: an actor begins the steps of many, then waits for all of them."""

    def begin_step(self, action: Any) -> None:
        """Begin to act; raises nothing: `finish_step`, which must follow, raises what goes wrong."""
        ...

    def awaited(self) -> tuple[int, float] | None:
        """Descriptor that becomes readable with the outcome, and deadline on the monotonic clock.

        None if the outcome need not be awaited, because the step could not begin.
        """
        ...

    def finish_step(self) -> Outcome:
        """Wait for the outcome; raises `GameFault`. Its frame is valid until the next step but one begins."""
        ...


def game_counts(game: Game) -> dict[str, int]:
    """Counters of the game since the last call; empty if it has none."""
    counts: Callable[[], dict[str, int]] = getattr(game, "counts", dict)
    return counts()


def _add_counts(stats: EnvStats, game: Game) -> None:
    for name, count in game_counts(game).items():
        stats.counts[name] = stats.counts.get(name, 0) + count


@dataclass(frozen=True)
class Level:
    """A level and the scores that normalise its returns."""

    name: str
    random_score: float | None = None
    """Mean unclipped return of uniformly random actions."""
    reference_score: float | None = None
    """Return that corresponds to a normalised score of 100."""
    reference_source: str = ""
    reward_scale: float = 1.0
    """Factor of the rewards for learning; scores use unscaled rewards."""


@dataclass(frozen=True)
class Suite:
    """Named levels with common spaces, and the function that makes their games in the actor's process."""

    name: str
    levels: tuple[Level, ...]
    spaces: Spaces
    actions: tuple[str, ...]
    """Names of the actions."""
    make_game: Callable[[str], Game]
    """Makes a game of the level with this name."""
    action_repeat: int = 1
    """Env frames per agent step."""
    truncation_is_terminal: bool = False
    """Treat truncation as termination, as published DMLab results do; otherwise the value bootstraps."""
    step_threads: int = 1
    """Threads of an actor that step its environments. `RemoteGame`s step together without threads, but need them to
    start several episodes at once."""
    alternate: bool = False
    """Step one half of an actor's environments while the network acts for the other half.

    Helps games whose own process does all the work; work in the actor's process would slow the network down."""
    compiles: tuple[str, ...] = ()
    """Names of the levels that compile a map before an episode, which takes about a minute unless it is cached."""
    picture: Callable[[np.ndarray], np.ndarray] = lambda frame: frame
    """Makes a picture of a frame, for pages and videos; needed where frames of several channels are no pictures."""
    scores_note: str = ""
    """Names the random and reference scores in use, if the suite has several."""
    variant: str = ""
    """Training or held-out levels, if the suite has both."""
    make_batch: MakeBatch | None = None
    """Makes many games of a level in one engine, for actors; None if each has an engine of its own.

    An environment's first episode has its seed, and the engine determines those that follow."""
    held_out: Callable[[], "Suite"] | None = None
    """Makes the suite of the held-out variants of these levels; None if there are none."""
    check: Callable[[], None] = lambda: None
    """Raises `UserError` if this machine cannot play the levels; called once, before anything starts."""

    @property
    def level_names(self) -> list[str]:
        """Names of the levels, by level index."""
        return [level.name for level in self.levels]

    def make_environment(self, level: int, seeds: EpisodeSeeds, give_up: GiveUp) -> "Environment":
        """Make an environment of the level with index `level`; see `Environment` for the other arguments."""
        name = self.levels[level].name
        rules = OutcomeChecks(name, self.spaces)

        def make() -> Game:
            return self.make_game(name)

        return Environment(make(), level, seeds, self.truncation_is_terminal, give_up, rules, make)

    def assign_seeds(self, root: Sequence[int], levels: Sequence[int]) -> list[EpisodeSeeds]:
        """Seeds of one environment per entry of `levels` (indices); no two play the same episode of a level."""
        total, assigned = Counter(levels), Counter[int]()
        seeds = []
        for k in levels:
            seeds.append(EpisodeSeeds(root, self.levels[k].name, first=assigned[k], stride=total[k]))
            assigned[k] += 1
        return seeds


@dataclass
class StepResult:
    """Result of one step of E environments."""

    reward: np.ndarray
    """[E] float32, scaled by the level's `reward_scale`."""
    terminated: np.ndarray
    """[E] bool."""
    truncated: np.ndarray
    """[E] bool."""
    episodes: list[tuple[int, Episode]] = field(default_factory=list)
    """(environment, episode) of the episodes that ended, by environment."""
    final_observations: list[tuple[int, Observation]] = field(default_factory=list)
    """(environment, final observation) of the episodes that were truncated, by environment."""


class Step(NamedTuple):
    """Result of a step of an environment: the observation to act on next, and the outcome of the last action."""

    observation: Observation
    """The next observation; at the end of an episode the first one of the next episode."""
    reward: float = 0.0
    """Reward of the last action, unscaled and unclipped."""
    terminated: bool = False
    truncated: bool = False
    first: bool = False
    """The observation starts an episode."""
    episode: Episode | None = None
    """The episode that ended with this step."""
    final_observation: Observation | None = None
    """Final observation of an episode that was truncated."""


BOUNDS_STEPS = 100
"""Mean number of steps between two checks of a game's bounds, besides one at every reset."""


class Environment:
    """A game with automatic resets: the end of an episode and the start of the next are the same step.

    A fault of the game truncates its episode at the last observation: the value of that observation stands for the
    rest, and the episode does not count for the scores. After a fault the game is restarted, with pauses that grow
    if faults repeat, or the level is abandoned; see `FaultLog`. An exception of the game is a fault, and so are
    observations and rewards that are not what the suite says; training's own errors are not. After an exception
    other than `GameFault` the game is closed and made anew.

    A first observation outside the game's bounds is a fault like these. Later ones are looked at every
    `BOUNDS_STEPS` steps on average. The first that is outside is reported as a fault of kind "range" and costs no
    episode: environments in wide use leave their bounds in normal play (LunarLander-v3 by five times their range).

    Args:
        game: the game to play; closed with the environment.
        level: index of the level, for the reports of episodes and faults.
        seeds: seeds of the episodes.
        truncation_is_terminal: see `Suite`.
        give_up: see `FaultLog`.
        rules: checks of what the game shows.
        make_game: makes the game anew; without it a game that raised an exception is reset as after a `GameFault`.
    """

    def __init__(
        self,
        game: Game,
        level: int,
        seeds: EpisodeSeeds,
        truncation_is_terminal: bool,
        give_up: GiveUp = "first",
        rules: OutcomeChecks | None = None,
        make_game: Callable[[], Game] | None = None,
    ) -> None:
        self._rules = rules or OutcomeChecks(str(level))
        self.level = level
        self._game: Game | None = game
        self._make_game, self._spoilt = make_game, False
        self._seeds = seeds
        self._truncation_is_terminal = truncation_is_terminal
        self._seed = 0
        self._ending: Outcome | Exception | None = None
        self._return, self._length = 0.0, 0
        self.is_remote = hasattr(game, "begin_step")
        """The game is a `RemoteGame`; so is the one that is made anew."""
        self._faults, self._stats = FaultLog(level, give_up), EnvStats(level)
        bounds: tuple[np.ndarray, np.ndarray] | None = getattr(game, "bounds", None)
        self._bounds = None if bounds is None else FrameBounds(*bounds)
        self._gaps, self._until_bounds_check = random.Random(level), 1.0

    def reset(self, seed: int | None = None) -> Step:
        """Start the next episode, with `seed` or the next of its own seeds; drops the current episode.

        A seed whose reset hangs is tried `HANGS_OF_A_SEED` times, since its maps may be in a cache by then. Raises
        `LevelBroken` if the level is abandoned.
        """
        start, hangs, self._ending = time.monotonic(), 0, None
        while True:
            self._faults.check_interrupt()
            self._seed, seed = (self._seeds.take() if seed is None else seed), None
            try:
                self._length = 0
                observation = self._working_game().reset(self._seed)
                self._rules.check(observation.frame)
                if self._bounds is not None:
                    self._bounds.check(observation.frame)
                self._last_obs = observation
                break
            except Exception as e:  # a game can raise anything
                self._add_fault(e)
                hangs = hangs + 1 if isinstance(e, GameFault) and e.kind == "hang" else 0
                if hangs % HANGS_OF_A_SEED:
                    seed = self._seed
        self._return, self._length = 0.0, 0
        self._stats.reset_s.append(time.monotonic() - start)
        return Step(self._last_obs, first=True)

    def step(self, action: Any, auto_reset: bool = True) -> Step:
        """Act; raises `TrainingError` and `UserError` of the game, and what `reset` raises.

        Without `auto_reset` an episode that ends is not followed by another until `reset`: the step at its end
        carries the last observation before it.
        """
        assert self._game is not None  # a reset comes before
        step = self._take(functools.partial(self._game.step, action))
        return self._end_episode(auto_reset) if step is None else step

    def begin(self, action: Any) -> None:
        """Begin to act in a `RemoteGame`; `finish` must follow, or `finish_episode`."""
        self._remote_game().begin_step(action)

    def awaited(self) -> tuple[int, float] | None:
        """Descriptor and deadline of the step that was begun; see `RemoteGame`."""
        return self._remote_game().awaited()

    def finish(self) -> Step | None:
        """The step that was begun, or None if it ends the episode: then `finish_episode` must follow."""
        return self._take(self._remote_game().finish_step)

    def finish_episode(self, auto_reset: bool = True) -> Step:
        """The step that was begun, however long it takes; raises what `step` raises."""
        step = self.finish() if self._ending is None else None
        return self._end_episode(auto_reset) if step is None else step

    def _remote_game(self) -> RemoteGame:
        return cast(RemoteGame, self._game)

    def _take(self, play: Callable[[], Outcome]) -> Step | None:
        """Step with the outcome of `play`; None if that ends the episode, and is kept in `_ending`."""
        try:
            observation, reward, terminated, truncated = play()
            self._rules.check_reward(reward)
            if observation is not None:
                self._rules.check(observation.frame)
                if self._bounds is not None:
                    self._check_bounds(self._bounds, observation.frame)
            elif not (terminated or truncated):
                raise ValueError("no observation in the middle of an episode")
        except Exception as e:  # a game can raise anything
            self._ending = e
            return None
        self._return += reward
        self._length += 1
        if self._length >= FORGIVE_AFTER_STEPS or terminated or truncated:
            self._faults.forgive(terminated or truncated)
        if not (terminated or truncated):
            assert observation is not None  # checked above
            self._last_obs = observation
            return Step(observation, reward)
        self._ending = Outcome(observation, reward, terminated, truncated)
        return None

    def _end_episode(self, auto_reset: bool) -> Step:
        """Step at the end of an episode, which `_ending` describes."""
        ending, self._ending = self._ending, None
        if isinstance(ending, Exception):
            self._add_fault(ending)
            final = self._kept(self._last_obs)
            return Step(self.reset().observation, truncated=True, first=True, final_observation=final)
        assert ending is not None
        observation, reward, terminated, truncated = ending
        if truncated and (observation is None or self._truncation_is_terminal):
            terminated = True  # without a final observation no value can be bootstrapped
        episode = Episode(self.level, self._return, self._length)
        final_observation = None if terminated or observation is None else self._kept(observation)
        next_obs = self.reset().observation if auto_reset else self._last_obs
        return Step(next_obs, reward, terminated, not terminated, True, episode, final_observation)

    def _kept(self, observation: Observation) -> Observation:
        """An observation that outlives the next steps."""
        return observation._replace(frame=observation.frame.copy()) if self.is_remote else observation

    def _check_bounds(self, bounds: FrameBounds, frame: np.ndarray) -> None:
        """Check the frame of one step in `BOUNDS_STEPS`; the first that is out of bounds is reported."""
        self._until_bounds_check -= 1
        if self._until_bounds_check > 0:
            return
        self._until_bounds_check = self._gaps.randrange(1, 2 * BOUNDS_STEPS)
        try:
            bounds.check(frame)
        except ValueError as e:
            self._faults.report("range", self._seed, f"{self._place()}: {e}")
            self._until_bounds_check = math.inf

    def _add_fault(self, error: Exception) -> None:
        self._spoilt |= not isinstance(error, GameFault)
        self._faults.add(error, self._seed, self._place())

    def _place(self) -> str:
        return f"level {self._rules.level!r}, seed {self._seed}, step {self._length}"

    def _working_game(self) -> Game:
        """The game, made anew if the last one raised an exception."""
        if self._spoilt and self._make_game is not None:
            game, self._game = self._game, None
            if game is not None:
                with suppress(Exception):  # it is broken, and may be in any state
                    _add_counts(self._stats, game)
                with suppress(Exception):
                    game.close()
            self._game = self._make_game()
            self._faults.check_interrupt()  # `interrupt` may have missed the new game
        self._spoilt = False
        assert self._game is not None
        return self._game

    def take_faults(self) -> list[Fault]:
        """Faults since the last call; another thread may call it while a step or reset is in progress."""
        return self._faults.take()

    def take_stats(self) -> EnvStats:
        """Reset times, faults and counters of the game since the last call."""
        stats, self._stats = self._stats, EnvStats(self.level)
        stats.faults.extend(self.take_faults())
        if self._game is not None:
            _add_counts(stats, self._game)
        return stats

    def interrupt(self) -> None:
        """Make another thread that waits for the game, or pauses after faults, raise `RuntimeError` soon."""
        self._faults.interrupted.set()
        interrupt: Callable[[], None] = getattr(self._game, "interrupt", lambda: None)
        interrupt()

    def close(self) -> None:
        """Close the game; raises `TrainingError` that names the level if that fails."""
        game, self._game = self._game, None
        try:
            if game is not None:
                game.close()
        except Exception as e:  # a game can raise anything
            raise TrainingError(f"level {self._rules.level!r} cannot be closed: {type(e).__name__}: {e}") from e


def __getattr__(name: str) -> Any:
    """Import `check_game` on demand: `envs.conformance` defines it and imports this module."""
    if name == "check_game":
        from impala_mi.envs.conformance import check_game

        return check_game
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
