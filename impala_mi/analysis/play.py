"""Playing complete episodes with a trained agent, or at random."""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from impala_mi.envs.base import Suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput, CoreState, Episode, Fault, transitions_buffer

OnStep = Callable[[np.ndarray, AgentInput, Action], None]
"""Called with the columns that act [N], their inputs [N, ...] and what the agent made of them."""
OnEpisode = Callable[[Episode], None]
OnFault = Callable[[int, Fault], None]
"""Called with the level's index; another episode takes the lost one's place."""

EVALUATION = 0xE7A1
"""Keeps the seeds of evaluation apart from those of training."""


def most_columns(suite: Suite) -> int:
    """Environments that are played at once: a large batch, or what the cores can step."""
    return 64 if suite.step_threads == 1 else max(16, 2 * (os.cpu_count() or 1))


def waves(levels: int, episodes: int, most: int) -> list[list[int]]:
    """Level index of each column, wave after wave.

    The columns of a level have equally many episodes each. Levels share a wave only where one alone does not fill
    it, because columns step together and levels differ in speed.
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
    tell_task: bool = True,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
    on_fault: OnFault | None = None,
) -> list[list[Episode]]:
    """`episodes` complete episodes of every level; actions are sampled, or uniform without an agent.

    Exactly the first `episodes` started on each level are played to their end and counted, so short episodes are
    not favoured. Returns the episodes by level index.
    """
    player = _Player(agent, suite, episodes, seed, tell_task, on_step, on_episode, on_fault)
    for levels in waves(len(suite.levels), episodes, most_columns(suite)):
        player.play(levels)
    return player.done


class _Player:
    """Plays one wave of levels after the other; the arguments are those of `play`."""

    def __init__(
        self,
        agent: Agent | None,
        suite: Suite,
        episodes: int,
        seed: int,
        tell_task: bool,
        on_step: OnStep | None,
        on_episode: OnEpisode | None,
        on_fault: OnFault | None,
    ) -> None:
        self._agent, self._suite, self._episodes, self._seed = agent, suite, episodes, seed
        self._tell_task, self._on_step = tell_task, on_step
        self._on_episode, self._on_fault = on_episode, on_fault
        self._generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(seed)
        self.done: list[list[Episode]] = [[] for _ in suite.levels]

    def play(self, levels: Sequence[int]) -> None:
        """Play these columns until every level of theirs has its episodes."""
        suite, agent, width = self._suite, self._agent, len(levels)
        tokens = agent.config.instruction_tokens if agent is not None else 0
        core = agent.config.core_width if agent is not None else 1
        inputs = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, width, tokens, 1).inputs))
        state = CoreState(torch.zeros(width, core), torch.zeros(width, core))
        active = np.ones(width, bool)
        started = np.bincount(levels, minlength=len(suite.levels))
        vector = VectorEnv(suite, levels, suite.deal_seeds([self._seed, EVALUATION], levels), tokens)
        try:
            vector.reset(inputs)
            while active.any():
                actions = np.zeros(width, np.int64)
                actions[active] = self._act(np.flatnonzero(active), inputs, state)
                following = []
                for column, episode in vector.step(actions, inputs, active, again=False).episodes:
                    self.done[episode.level].append(episode)
                    if self._on_episode is not None:
                        self._on_episode(episode)
                    active[column] = started[episode.level] < self._episodes
                    if active[column]:
                        started[episode.level] += 1
                        following.append(column)
                if following:
                    vector.reset(inputs, following)
                self._report_faults(vector)
        finally:
            vector.close()

    def _act(self, columns: np.ndarray, inputs: AgentInput, state: CoreState) -> np.ndarray:
        """Actions [N] of these columns; their states [N, H] go on in place."""
        if self._agent is None:
            return self._rng.integers(self._suite.spaces.num_actions, size=len(columns))
        rows = AgentInput(*(a[columns] for a in inputs))
        picked = CoreState(state.hidden[columns], state.cell[columns])
        act = self._agent.act(rows if self._tell_task else rows._replace(level=None), picked, self._generator)
        state.hidden[columns], state.cell[columns] = act.state.hidden, act.state.cell
        if self._on_step is not None:
            self._on_step(columns, rows, act)
        return act.action.numpy()

    def _report_faults(self, vector: VectorEnv) -> None:
        for upkeep in vector.take_upkeep():
            for fault in upkeep.faults:
                if self._on_fault is not None:
                    self._on_fault(upkeep.level, fault)
