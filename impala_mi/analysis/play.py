"""Playing complete episodes with a trained agent, or at random."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from impala_mi.envs.base import LevelBroken, Suite
from impala_mi.envs.seeds import EpisodeSeeds
from impala_mi.envs.vector import VectorEnv
from impala_mi.host.threads import cores
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput, CoreState, Episode, Fault, transitions_buffer

OnStep = Callable[[np.ndarray, AgentInput, Action], None]
"""Called with the columns that act [N], their inputs [N, ...] and what the agent made of them."""
OnEpisode = Callable[[Episode], None]
OnFault = Callable[[int, Fault], None]
"""Called with the level's index; another episode takes the lost one's place."""
OnBroken = Callable[[int, str], None]
"""Called with the index of a level that was given up, and why."""

MOST_COLUMNS = 64


def evaluation_root(seed: int) -> list[int]:
    """Root of the seeds of evaluation; longer than those of training, which it can therefore not equal."""
    return [seed, 0, 0, 0, 0xE7A1]


def most_columns(suite: Suite) -> int:
    """Environments that are played at once: a large batch, or what the cores of this process can step."""
    if suite.step_threads == 1:
        return MOST_COLUMNS
    return min(max(16, 2 * cores()), MOST_COLUMNS)


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
    on_broken: OnBroken | None = None,
    columns: int | None = None,
    levels: Sequence[int] | None = None,
) -> list[list[Episode]]:
    """`episodes` complete episodes of every level, or of these; actions are sampled, or uniform without an agent.

    Exactly the first `episodes` started on each level are played to their end and counted, so short episodes are
    not favoured; they have the first seeds of the level's list, whatever the number of `columns`. Returns the
    episodes by level index.

    A level that fails again and again raises `LevelBroken`, or with `on_broken` is left out.
    """
    player = _Player(agent, suite, episodes, seed, tell_task, on_step, on_episode, on_fault)
    chosen = range(len(suite.levels)) if levels is None else levels
    for wave in waves(len(chosen), episodes, columns or most_columns(suite)):
        wave = [chosen[k] for k in wave]
        left = wave
        while left:
            try:
                player.play(left)
                break
            except LevelBroken as e:
                if on_broken is None:
                    raise
                on_broken(e.level, str(e))
                for level in wave:  # those that share the wave begin again
                    player.done[level].clear()
                left = [level for level in left if level != e.level]
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
        root = evaluation_root(self._seed)
        seeds = {k: EpisodeSeeds(root, suite.levels[k].name) for k in set(levels)}
        spare = suite.assign_seeds([*root, 1], levels)  # of episodes in the place of lost ones
        vector = VectorEnv(suite, levels, spare, tokens, give_up="always")
        try:
            vector.reset(inputs, {column: seeds[k].take() for column, k in enumerate(levels)})
            while active.any():
                actions = np.zeros(width, np.int64)
                actions[active] = self._act(np.flatnonzero(active), inputs, state)
                following = {}
                for column, episode in vector.step(actions, inputs, active, again=False).episodes:
                    self.done[episode.level].append(episode)
                    if self._on_episode is not None:
                        self._on_episode(episode)
                    active[column] = started[episode.level] < self._episodes
                    if active[column]:
                        started[episode.level] += 1
                        following[column] = seeds[episode.level].take()
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
        for level, fault in vector.take_faults():
            if self._on_fault is not None:
                self._on_fault(level, fault)
