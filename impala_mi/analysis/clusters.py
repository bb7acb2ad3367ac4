"""Separation of levels among the vectors of steps, as numbers (the paper's claims on figure 4(a))."""

from dataclasses import dataclass

import numpy as np

from impala_mi.analysis.recording import Recording, octave

NEIGHBOURS = 10
"""Largest number of nearest neighbours."""
COMPONENTS = 50
"""Largest number of principal components."""
MAX_STEPS = 2000
"""Steps of an octave that are compared, as all their distances are in memory."""


@dataclass(frozen=True)
class LevelSeparation:
    """Separation of the levels within one octave of time."""

    first: int
    """First agent step of the octave, since the start of the episode."""
    last: int
    steps: int
    levels: int
    neighbours: int
    purity: float
    """Mean share of a step's nearest neighbours in other episodes that are of the same level."""
    chance: float
    """Purity of neighbours drawn at random from other episodes."""
    silhouette: float
    """Mean silhouette coefficient, in [-1, 1], of one step of each episode."""


def principal_components(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Principal components [N, C] of vectors [N, D], 50 or fewer."""
    from sklearn.decomposition import PCA

    components: np.ndarray = PCA(min(COMPONENTS, *vectors.shape), random_state=seed).fit_transform(vectors)
    return components


def level_separation(recording: Recording, kind: str, seed: int) -> list[LevelSeparation]:
    """Separation by octave, for octaves in which at least two levels have steps of several episodes."""
    rng, points = np.random.default_rng(seed), principal_components(recording.vectors[kind], seed)
    octaves, chosen = octave(recording.time), {}
    for number in np.unique(octaves).tolist():
        steps = np.flatnonzero(octaves == number)
        level, episode = recording.level[steps], recording.episode[steps]
        several = [k for k in np.unique(level) if len(np.unique(episode[level == k])) > 1]
        if len(several) > 1:
            chosen[number] = rng.permutation(steps[np.isin(level, several)])[:MAX_STEPS]
    # The same number at all times, and no more than a level has: otherwise the purity could not be 1.
    k = min((int(np.logical_and(*_pairs(recording, steps)).sum(1).min()) for steps in chosen.values()), default=0)
    return [_of_octave(recording, points, n, steps, min(NEIGHBOURS, k)) for n, steps in chosen.items() if k]


def _pairs(recording: Recording, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether pairs of steps [N, N] are of the same level, and of different episodes (one's own is always near)."""
    level, episode = recording.level[steps], recording.episode[steps]
    return level[:, None] == level, episode[:, None] != episode


def _of_octave(recording: Recording, points: np.ndarray, number: int, steps: np.ndarray, k: int) -> LevelSeparation:
    """Separation among steps of one octave."""
    from sklearn.metrics import pairwise_distances, silhouette_score

    level, episode = recording.level[steps], recording.episode[steps]
    distances = pairwise_distances(points[steps])
    same, other = _pairs(recording, steps)
    nearest = np.argpartition(np.where(other, distances, np.inf), k - 1, axis=1)[:, :k]
    # One step of each episode, as those of one episode are close to each other and all of one level.
    _, first = np.unique(episode, return_index=True)
    silhouette = silhouette_score(distances[np.ix_(first, first)], level[first], metric="precomputed")
    start = 0 if number == 0 else 2 ** (number - 1)
    return LevelSeparation(
        start, max(start, 2 * start - 1), len(steps), len(np.unique(level)), k,
        float(np.take_along_axis(same, nearest, 1).mean()), float(((same & other).sum(1) / other.sum(1)).mean()),
        float(silhouette),
    )  # fmt: skip
