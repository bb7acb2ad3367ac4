"""Playing: complete episodes of a suite's levels, with an agent or with random actions."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from impala_mi.envs.base import LevelBroken, StepResult, Suite
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.vector import VectorEnv
from impala_mi.host.threads import cores
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput, Episode, Fault, RecurrentState, leaves, map_arrays, transitions_buffer

OnStep = Callable[[np.ndarray, AgentInput, Action], None]
"""Function of the columns that act [N], their inputs [N, ...] and the agent's output for them."""
OnEpisode = Callable[[Episode], None]
"""Function of an episode that ended."""
OnFault = Callable[[int, Fault], None]
"""Function of a level's index and a fault that cost episodes; others replace the lost ones."""
OnBroken = Callable[[int, str], None]
"""Function of the index of a level that was given up, and the reason."""

OnProgress = Callable[[int, int], None]
"""Function of the episodes that have ended and of the steps of the longest that is running."""

MAX_EPISODE_STEPS = 200_000
"""Agent steps after which an episode is cut off and counted with its return so far."""
PROGRESS_S = 30.0
"""Seconds without the end of an episode after which `OnProgress` is called."""
MAX_COLUMNS = 64
"""Most environments played at once."""


def evaluation_root(seed: int) -> list[int]:
    """Root of the seeds of evaluation episodes; it is longer than a root of training, so the two never coincide."""
    return [seed, 0, 0, 0, 0xE7A1]


def max_columns(suite: Suite) -> int:
    """Number of environments to play at once: a large batch, or as many as this process's cores can step."""
    if suite.step_threads == 1:
        return MAX_COLUMNS
    return min(max(16, 2 * cores()), MAX_COLUMNS)


def waves(levels: int, episodes: int, most: int) -> list[list[int]]:
    """Level index of each column, wave after wave, with at most `most` columns in a wave.

    All columns of a level play equally many episodes. Levels share a wave only if one alone does not fill it,
    because columns step together and levels differ in speed.
    """
    columns = math.ceil(episodes / math.ceil(episodes / most))
    together = max(1, most // columns)
    return [
        [k for k in range(start, min(start + together, levels)) for _ in range(columns)]
        for start in range(0, levels, together)
    ]


def play(
    agent: Agent | None,
    suite: Suite,
    episodes: int,
    seed: int,
    *,
    greedy: bool = False,
    tell_task: bool = True,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
    on_fault: OnFault | None = None,
    on_broken: OnBroken | None = None,
    on_progress: OnProgress | None = None,
    on_cut_off: OnEpisode | None = None,
    columns: int | None = None,
    levels: Sequence[int] | None = None,
    max_steps: int = MAX_EPISODE_STEPS,
    max_time_s: float = math.inf,
) -> list[list[Episode]]:
    """Play complete episodes and return them by level index.

    Exactly the first `episodes` started on each level are played to their end and counted, so short episodes are
    not favoured; they have the first seeds of the level's list, whatever the number of `columns`.

    Args:
        agent: acts; None plays uniformly random actions.
        suite: makes the environments.
        episodes: number of episodes of each level.
        seed: seed of the episodes and of sampled actions.
        greedy: take the policy's mode in place of a sample.
        tell_task: give the agent the level's index.
        on_step: called with every step of the agent.
        on_episode: called with every episode.
        on_fault: called with every fault.
        on_broken: called with a level that is given up and has no episodes; by default `LevelBroken` is raised.
        on_progress: called every `PROGRESS_S` seconds while no episode ends.
        on_cut_off: called with every episode that is cut off, before `on_episode`.
        columns: environments played at once, `max_columns` by default.
        levels: indices of the levels to play, all by default.
        max_steps: agent steps after which an episode is cut off and counted with its return so far.
        max_time_s: seconds after which no more is played; levels then have the episodes that have ended.
    """
    deadline = time.monotonic() + max_time_s
    player = _Player(
        agent, suite, episodes, seed, greedy, tell_task, on_step, on_episode, on_fault, on_progress, on_cut_off,
        max_steps, deadline,
    )  # fmt: skip
    chosen = range(len(suite.levels)) if levels is None else levels
    for wave in waves(len(chosen), episodes, columns or max_columns(suite)):
        wave = [chosen[k] for k in wave]
        working = wave
        while working and time.monotonic() < deadline:
            try:
                player.play(working)
                break
            except LevelBroken as e:
                if on_broken is None:
                    raise
                on_broken(e.level, str(e))
                if time.monotonic() >= deadline:
                    break
                for level in wave:  # the other levels of the wave start again
                    player.episodes_of[level].clear()
                working = [level for level in working if level != e.level]
    return player.episodes_of


@dataclass
class _Player:
    """Player of one wave after another; the fields are the arguments of `play`."""

    agent: Agent | None
    suite: Suite
    episodes: int
    seed: int
    greedy: bool
    tell_task: bool
    on_step: OnStep | None
    on_episode: OnEpisode | None
    on_fault: OnFault | None
    on_progress: OnProgress | None
    on_cut_off: OnEpisode | None
    max_steps: int
    deadline: float

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self._rng = np.random.default_rng(self.seed)
        self.episodes_of: list[list[Episode]] = [[] for _ in self.suite.levels]
        self._progress_at = time.monotonic() + PROGRESS_S

    def play(self, levels: Sequence[int]) -> None:
        """Play columns of these levels until every level has its episodes."""
        suite, agent, width = self.suite, self.agent, len(levels)
        tokens = 0 if agent is None else agent.config.instruction_tokens
        inputs = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, width, tokens).inputs))
        state: RecurrentState = () if agent is None else agent.initial_state(width)
        space = suite.spaces.action_space
        actions = np.zeros((width, *space.shape), space.dtype)
        active = np.ones(width, bool)
        started = np.bincount(levels, minlength=len(suite.levels))
        root = evaluation_root(self.seed)
        seeds = {k: EpisodeSeeds(root, suite.levels[k].name) for k in set(levels)}
        replacements = suite.assign_seeds([*root, 1], levels)  # seeds of episodes that replace lost ones
        vector = VectorEnv(suite, levels, replacements, tokens, give_up="always")
        try:
            vector.reset(inputs, {column: seeds[k].take() for column, k in enumerate(levels)})
            running = _RunningEpisodes(suite, levels)
            while active.any() and time.monotonic() < self.deadline:
                actions[active] = self._act(np.flatnonzero(active), inputs, state)
                resets = {}
                result = vector.step(actions, inputs, active, auto_reset=False)
                cut_off = running.add(result, active, self.max_steps)
                if self.on_cut_off is not None:
                    for _, episode in cut_off:
                        self.on_cut_off(episode)
                for column, episode in [*result.episodes, *cut_off]:
                    self._progress_at = time.monotonic() + PROGRESS_S
                    self.episodes_of[episode.level].append(episode)
                    if self.on_episode is not None:
                        self.on_episode(episode)
                    active[column] = started[episode.level] < self.episodes
                    if active[column]:
                        started[episode.level] += 1
                        resets[column] = seeds[episode.level].take()
                if resets:
                    vector.reset(inputs, resets)
                self._report_faults(vector)
                self._report_progress(running)
        finally:
            vector.close()

    def _act(self, columns: np.ndarray, inputs: AgentInput, state: RecurrentState) -> np.ndarray:
        """Actions [N, *action_shape] of columns [N], whose rows of `state` [E, ...] are updated in place."""
        if self.agent is None:
            return self.suite.spaces.action_space.random(self._rng, len(columns))
        rows = map_arrays(inputs, lambda array: array[columns])
        before = map_arrays(state, lambda tensor: tensor[columns])
        action = self.agent.act(
            rows if self.tell_task else rows._replace(level=None), before, self._generator, self.greedy
        )
        for tensor, after in zip(leaves(state), leaves(action.state), strict=True):
            tensor[columns] = after
        if self.on_step is not None:
            self.on_step(columns, rows, action)
        return action.action.numpy()

    def _report_progress(self, running: "_RunningEpisodes") -> None:
        if self.on_progress is not None and time.monotonic() >= self._progress_at:
            self._progress_at = time.monotonic() + PROGRESS_S
            self.on_progress(sum(map(len, self.episodes_of)), int(running.steps.max()))

    def _report_faults(self, vector: VectorEnv) -> None:
        for level, fault in vector.take_faults():
            if self.on_fault is not None and fault.costs_episode:
                self.on_fault(level, fault)


class _RunningEpisodes:
    """Steps and returns so far of the episodes that run in E columns, which play `levels` [E]."""

    def __init__(self, suite: Suite, levels: Sequence[int]) -> None:
        self._levels = levels
        self._scale = np.array([suite.levels[k].reward_scale for k in levels])
        self.steps = np.zeros(len(levels), np.int64)
        self._returns = np.zeros(len(levels))

    def add(self, result: StepResult, active: np.ndarray, max_steps: int) -> list[tuple[int, Episode]]:
        """Count a step of the active columns; returns the episodes that are to be cut off, with their columns."""
        self.steps[active] += 1
        self._returns[active] += result.reward[active] / self._scale[active]
        ended = result.terminated | result.truncated
        cut_off = [
            (int(column), Episode(self._levels[int(column)], float(self._returns[column]), int(self.steps[column])))
            for column in np.flatnonzero(active & ~ended & (self.steps >= max_steps))
        ]
        over = ended | (self.steps >= max_steps)
        self.steps[over], self._returns[over] = 0, 0
        return cut_off
