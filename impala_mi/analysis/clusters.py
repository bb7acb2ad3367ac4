"""How far levels lie apart among vectors of steps, as numbers (the paper's claims on figure 4(a))."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, silhouette_score

from impala_mi.analysis.recording import Recording, octave

NEIGHBOURS = 10
COMPONENTS = 50


@dataclass(frozen=True)
class Apartness:
    """Of the steps within an octave of time."""

    first: int
    """Agent step since the start of the episode."""
    last: int
    steps: int
    levels: int
    purity: float
    """Mean share of the nearest neighbours, of other episodes, that are of the same level."""
    chance: float
    """The purity of neighbours drawn at random from other episodes."""
    silhouette: float
    """Mean silhouette coefficient, in [-1, 1]."""


def reduce(vectors: np.ndarray, seed: int) -> np.ndarray:
    """[N, at most 50] principal components of [N, D]."""
    components = min(COMPONENTS, *vectors.shape)
    reduced: np.ndarray = PCA(components, random_state=seed).fit_transform(vectors)
    return reduced


def apartness(recording: Recording, kind: str, seed: int) -> list[Apartness]:
    """By octave, of those in which at least two levels have steps of several episodes."""
    points, octaves, found = reduce(recording.vectors[kind], seed), octave(recording.time), []
    for number in np.unique(octaves):
        here = np.flatnonzero(octaves == number)
        level, episode = recording.level[here], recording.episode[here]
        several = [k for k in np.unique(level) if len(np.unique(episode[level == k])) > 1]
        inside = np.isin(level, several)
        if len(several) < 2:
            continue
        here, level, episode = here[inside], level[inside], episode[inside]
        distances = pairwise_distances(points[here])
        same = level[:, None] == level
        purity, chance = _purity(distances, same, episode[:, None] != episode)
        first = 0 if number == 0 else 2 ** (int(number) - 1)
        found.append(
            Apartness(
                first, max(first, 2 * first - 1), len(here), len(several), purity, chance,
                float(silhouette_score(distances, level, metric="precomputed")),
            )
        )  # fmt: skip
    return found


def _purity(distances: np.ndarray, same: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Of [N, N] distances, steps of the same level, and of other episodes: one's own are near in any case."""
    of_level = (same & other).sum(1)
    k = min(NEIGHBOURS, int(of_level.min()))  # or the purity could not be 1
    nearest = np.argsort(np.where(other, distances, np.inf), axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(same, nearest, 1).mean()), float((of_level / other.sum(1)).mean())
