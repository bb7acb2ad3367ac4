"""Episodes step by step: frames, actions, values and rewards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from impala_mi.analysis.play import play
from impala_mi.analysis.recording import head_vectors, note_instructions
from impala_mi.envs.base import Suite
from impala_mi.errors import UserError, shorten
from impala_mi.host.files import open_file
from impala_mi.nn.agent import Action, Agent
from impala_mi.types import AgentInput, Discrete, Episode

NEAREST = 5
"""Neighbours in the map among which a new step is placed."""


@dataclass
class FilmStep:
    """One step of an episode."""

    frame: np.ndarray
    """Frame [h, w, c] uint8."""
    instruction: str
    action: int
    policy: np.ndarray
    """Probabilities [A] of the actions."""
    value: float
    place: np.ndarray | None = None
    """Place [2] in the t-SNE map, if there is one."""
    reward: float | None = None
    """Reward of the action, scaled as for learning; None for the last step, whose reward is only in the return."""

    @property
    def entropy(self) -> float:
        """Entropy of the policy, in nats."""
        p = self.policy[self.policy > 0]
        return float(-(p * np.log(p)).sum())


@dataclass(frozen=True)
class Film:
    """One episode."""

    level: str
    steps: list[FilmStep]
    episode: Episode


@dataclass(frozen=True)
class TsneMap:
    """A t-SNE that `impala-mi tsne` saved; new steps are placed among their nearest neighbours."""

    points: np.ndarray
    """Coordinates [N, 2]."""
    level: np.ndarray
    """Index [N] of the level."""
    kind: str
    """Kind of vectors."""
    find: Callable[[np.ndarray], np.ndarray]
    """Function of vectors [M, D] that returns their places [M, 2]."""
    width: int
    """D, the width of the vectors."""


def load_map(file: Path) -> TsneMap | None:
    """Load a saved t-SNE, or None if there is no file; raises `UserError` if it is damaged."""
    if not file.exists():
        return None
    from sklearn.neighbors import NearestNeighbors

    try:
        with open_file(file) as opened, np.load(opened, allow_pickle=False) as kept:
            points, level, kind = kept["points"], kept["level"], str(kept["kind"])
            vectors = kept[kind]
        _check_map(points, level, vectors)
    except Exception as e:  # zip and npy raise many kinds
        reason = shorten(str(e) or type(e).__name__, 200)
        raise UserError(f"{file}: cannot be read ({reason}); recreate it with impala-mi tsne") from None
    nearest = NearestNeighbors(n_neighbors=min(NEAREST, len(points))).fit(vectors)

    def find(vectors: np.ndarray) -> np.ndarray:
        # The median, because a mean of neighbours in two clusters lies in neither.
        places: np.ndarray = np.median(points[nearest.kneighbors(vectors, return_distance=False)], axis=1)
        return places

    return TsneMap(points, level, kind, find, vectors.shape[1])


def _check_map(points: np.ndarray, level: np.ndarray, vectors: np.ndarray) -> None:
    """Raise `ValueError` unless points [N, 2], levels [N] and vectors [N, D] are numbers that belong together."""
    n = len(level)
    if level.ndim != 1 or level.dtype.kind not in "iu" or n == 0:
        raise ValueError(f"levels of shape {list(level.shape)} and dtype {level.dtype}")
    for name, array, shape in (("points", points, (n, 2)), ("vectors", vectors, (n, *vectors.shape[1:2]))):
        if array.ndim != 2 or array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{name} of shape {list(array.shape)} and dtype {array.dtype}, or not finite")


def film_episodes(
    agent: Agent,
    suite: Suite,
    level: int,
    episodes: int,
    seed: int,
    chart: TsneMap | None,
    on_film: Callable[[Film], None],
    greedy: bool = False,
) -> None:
    """Play complete episodes of one level, and call `on_film` as soon as each ends.

    Raises:
        UserError: the level's observations are no pictures, or its actions are not discrete.
    """
    name = suite.levels[level].name
    if len(suite.spaces.frame_shape) != 3:
        raise UserError(f"level {name!r} shows {suite.spaces.frame_shape[0]} numbers and no pictures: no video")
    if chart is not None:
        vectors = head_vectors(agent, np.zeros((1, agent.config.core_width), np.float32), np.full(1, level))
        if (
            chart.kind not in vectors
            or vectors[chart.kind].shape[1] != chart.width
            or max(chart.level) >= len(suite.levels)
        ):
            raise UserError("the t-SNE in the run's folder is of another agent; recreate it with impala-mi tsne")
    if not isinstance(suite.spaces.action_space, Discrete):
        raise UserError(
            f"level {name!r} has actions {suite.spaces.action_space}: videos show discrete actions only"
        )
    noted, words = note_instructions(suite, agent.config.instruction_tokens)
    steps: list[FilmStep] = []
    cores: list[np.ndarray] = []

    def on_step(_: np.ndarray, inputs: AgentInput, action: Action) -> None:
        if steps:
            steps[-1].reward = float(inputs.last_reward[0])
        cores.append(action.core[0].numpy().copy())
        told = torch.from_numpy(inputs.level)
        value = agent.normaliser.denormalise(agent.head(action.core, told).value, told)
        steps.append(
            FilmStep(
                suite.picture(inputs.frame[0]).copy(), words.get(inputs.tokens[0].tobytes(), ""),
                int(action.action[0]), action.logits[0].softmax(-1).numpy(), float(value[0]),
            )
        )  # fmt: skip

    def on_episode(episode: Episode) -> None:
        if chart is not None:  # a search costs as much for one step as for all
            vectors = head_vectors(agent, np.stack(cores), np.full(len(cores), level))
            for step, place in zip(steps, chart.find(vectors[chart.kind]), strict=True):
                step.place = place
        on_film(Film(name, steps.copy(), episode))
        on_fault()

    def on_fault(*_: object) -> None:
        steps.clear()  # another episode replaces this one
        cores.clear()

    with torch.inference_mode():
        play(agent, noted, episodes, seed, greedy=greedy, on_step=on_step, on_episode=on_episode,
             on_fault=on_fault, columns=1, levels=[level])  # fmt: skip
