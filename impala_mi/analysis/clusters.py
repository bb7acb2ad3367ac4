"""How far levels lie apart among vectors of steps, as numbers (the paper's claims on figure 4(a))."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, silhouette_score

from impala_mi.analysis.recording import Recording, octave

NEIGHBOURS = 10
COMPONENTS = 50
MOST = 2000
"""Steps of an octave that are looked at: distances between all are held."""


@dataclass(frozen=True)
class Apartness:
    """Of the steps within an octave of time."""

    first: int
    """Agent step since the start of the episode."""
    last: int
    steps: int
    levels: int
    neighbours: int
    purity: float
    """Mean share of so many nearest neighbours, of other episodes, that are of the same level."""
    chance: float
    """The purity of neighbours drawn at random from other episodes."""
    silhouette: float
    """Mean silhouette coefficient, in [-1, 1], of one step of each episode."""


def reduce(vectors: np.ndarray, seed: int) -> np.ndarray:
    """[N, at most 50] principal components of [N, D]."""
    components = min(COMPONENTS, *vectors.shape)
    reduced: np.ndarray = PCA(components, random_state=seed).fit_transform(vectors)
    return reduced


def apartness(recording: Recording, kind: str, seed: int) -> list[Apartness]:
    """By octave, of those in which at least two levels have steps of several episodes."""
    rng, points = np.random.default_rng(seed), reduce(recording.vectors[kind], seed)
    octaves, chosen = octave(recording.time), {}
    for number in np.unique(octaves).tolist():
        here = np.flatnonzero(octaves == number)
        level, episode = recording.level[here], recording.episode[here]
        several = [k for k in np.unique(level) if len(np.unique(episode[level == k])) > 1]
        if len(several) > 1:
            chosen[number] = rng.permutation(here[np.isin(level, several)])[:MOST]
    # As many at all times, and no more than there are of a level: or the purity could not be 1.
    k = min((_fewest(recording, here) for here in chosen.values()), default=0)
    return [_within(recording, points, number, here, min(NEIGHBOURS, k)) for number, here in chosen.items() if k]


def _others(recording: Recording, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N, N] steps of the same level, and of other episodes: one's own are near in any case."""
    level, episode = recording.level[here], recording.episode[here]
    return level[:, None] == level, episode[:, None] != episode


def _fewest(recording: Recording, here: np.ndarray) -> int:
    """Steps of other episodes of the same level that each has at least."""
    same, other = _others(recording, here)
    return int((same & other).sum(1).min())


def _within(recording: Recording, points: np.ndarray, number: int, here: np.ndarray, k: int) -> Apartness:
    """Of steps `here`, which are of one octave."""
    level, episode = recording.level[here], recording.episode[here]
    distances = pairwise_distances(points[here])
    same, other = _others(recording, here)
    nearest = np.argpartition(np.where(other, distances, np.inf), k - 1, axis=1)[:, :k]
    # One step an episode: those of the same one are near each other, and all of one level.
    _, first = np.unique(episode, return_index=True)
    silhouette = silhouette_score(distances[np.ix_(first, first)], level[first], metric="precomputed")
    start = 0 if number == 0 else 2 ** (number - 1)
    return Apartness(
        start, max(start, 2 * start - 1), len(here), len(np.unique(level)), k,
        float(np.take_along_axis(same, nearest, 1).mean()), float(((same & other).sum(1) / other.sum(1)).mean()),
        float(silhouette),
    )  # fmt: skip
