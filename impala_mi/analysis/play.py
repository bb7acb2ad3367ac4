"""Playing complete episodes with a trained agent, or at random."""

from collections.abc import Callable

import numpy as np
import torch

from impala_mi.envs.base import Suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput, CoreState, Episode, transitions_buffer

OnStep = Callable[[np.ndarray, AgentInput, Action], None]
"""Called with the columns that act [N], their inputs [N, ...] and what the agent made of them."""
OnEpisode = Callable[[Episode], None]


def play(
    agent: Agent | None,
    suite: Suite,
    episodes: int,
    seed: int,
    *,
    tell_task: bool = True,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
    columns_per_level: int = 8,
) -> list[list[Episode]]:
    """`episodes` complete episodes of every level; actions are sampled, or uniform without an agent.

    Exactly the first `episodes` started on each level are played to their end and counted, so short episodes are
    not favoured. Returns the episodes by level index.
    """
    columns = min(columns_per_level, episodes)
    levels = [k for k in range(len(suite.levels)) for _ in range(columns)]
    width = len(levels)
    tokens = agent.config.instruction_tokens if agent is not None else 0
    core = agent.config.core_width if agent is not None else 1
    seeds = suite.deal_seeds([seed, 0xE7A1], levels)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    started = [columns] * len(suite.levels)
    active = np.ones(width, bool)
    done: list[list[Episode]] = [[] for _ in suite.levels]
    inputs = AgentInput(*(a[0] for a in transitions_buffer(suite.spaces, 1, width, tokens, 1).inputs))
    state = CoreState(torch.zeros(width, core), torch.zeros(width, core))
    vector = VectorEnv(suite, levels, seeds, tokens)
    try:
        vector.reset(inputs)
        while active.any():
            acting = np.flatnonzero(active)
            actions = np.zeros(width, np.int64)
            if agent is None:
                actions[acting] = rng.integers(suite.spaces.num_actions, size=len(acting))
            else:
                rows = AgentInput(*(a[acting] for a in inputs))
                picked = CoreState(state.hidden[acting], state.cell[acting])
                seen = rows if tell_task else rows._replace(level=None)
                act = agent.act(seen, picked, generator)
                state.hidden[acting], state.cell[acting] = act.state.hidden, act.state.cell
                actions[acting] = act.action.numpy()
                if on_step is not None:
                    on_step(acting, rows, act)
            for column, episode in vector.step(actions, inputs, active).episodes:
                done[episode.level].append(episode)
                if on_episode is not None:
                    on_episode(episode)
                if started[episode.level] < episodes:
                    started[episode.level] += 1
                else:
                    active[column] = False
    finally:
        vector.close()
    return done
