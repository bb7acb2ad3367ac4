"""Episodes step by step: what was seen, done, expected and earned."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from impala_mi.analysis.play import play
from impala_mi.analysis.recording import hear, look
from impala_mi.envs.base import Suite
from impala_mi.errors import UserError
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput, Episode

NEAREST = 5


@dataclass
class Step:
    """One step of an episode."""

    frame: np.ndarray
    """[h, w, c] uint8."""
    instruction: str
    action: int
    policy: np.ndarray
    """[A] probabilities."""
    value: float
    place: np.ndarray | None = None
    """[2] in the t-SNE map, where there is one."""
    reward: float | None = None
    """That the action brought, scaled as for learning; None for the last, whose reward is in the return alone."""

    @property
    def entropy(self) -> float:
        """Of the policy, in nats."""
        p = self.policy[self.policy > 0]
        return float(-(p * np.log(p)).sum())


@dataclass(frozen=True)
class Film:
    """One episode."""

    level: str
    steps: list[Step]
    episode: Episode


@dataclass(frozen=True)
class Map:
    """A t-SNE as `impala-mi tsne` left it: steps that it does not hold lie among their nearest."""

    points: np.ndarray
    """[N, 2]."""
    level: np.ndarray
    """[N]."""
    kind: str
    """Of vectors that it shows."""
    find: Callable[[np.ndarray], np.ndarray]
    """[M, D] vectors to [M, 2] places."""


def load_map(file: Path) -> Map | None:
    """None where there is none; raises `UserError` for one that is damaged."""
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as kept:
            points, level, kind = kept["points"], kept["level"], str(kept["kind"])
            vectors = kept[kind]
    except Exception as e:  # zip and npy raise many kinds
        raise UserError(f"{file}: cannot be read ({e}); make it again with impala-mi tsne") from None
    nearest = NearestNeighbors(n_neighbors=min(NEAREST, len(points))).fit(vectors)

    def find(wanted: np.ndarray) -> np.ndarray:
        # The median: a mean of neighbours in two clusters lies in neither.
        found: np.ndarray = np.median(points[nearest.kneighbors(wanted, return_distance=False)], axis=1)
        return found

    return Map(points, level, kind, find)


def shoot(
    agent: Agent,
    suite: Suite,
    level: int,
    episodes: int,
    seed: int,
    chart: Map | None,
    on_film: Callable[[Film], None],
    greedy: bool = False,
) -> None:
    """Play complete episodes of one level; each is handed over as soon as it ends.

    Raises `UserError` for a level whose observations are no pictures.
    """
    name = suite.levels[level].name
    if len(suite.spaces.frame_shape) != 3:
        raise UserError(f"level {name!r} shows {suite.spaces.frame_shape[0]} numbers and no pictures: no video")
    listening, words = hear(suite, agent.config.instruction_tokens)
    steps: list[Step] = []
    cores: list[np.ndarray] = []

    def on_step(_: np.ndarray, inputs: AgentInput, action: Action) -> None:
        if steps:
            steps[-1].reward = float(inputs.last_reward[0])
        cores.append(action.core[0].numpy().copy())
        value = agent.head(action.core, torch.from_numpy(inputs.level)).value
        steps.append(
            Step(
                inputs.frame[0].copy(), words.get(inputs.tokens[0].tobytes(), ""), int(action.action[0]),
                action.logits[0].softmax(-1).numpy(), float(value[0]),
            )
        )  # fmt: skip

    def on_episode(episode: Episode) -> None:
        if chart is not None:  # all at once: a search costs as much for one as for many
            vectors = look(agent, np.stack(cores), np.full(len(cores), level))
            for step, place in zip(steps, chart.find(vectors[chart.kind]), strict=True):
                step.place = place
        on_film(Film(name, steps.copy(), episode))
        on_fault()

    def on_fault(*_: object) -> None:
        steps.clear()  # another episode takes its place
        cores.clear()

    with torch.inference_mode():
        play(agent, listening, episodes, seed, greedy=greedy, on_step=on_step, on_episode=on_episode,
             on_fault=on_fault, columns=1, levels=[level])  # fmt: skip
