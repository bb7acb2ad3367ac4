"""The paper's figure 4(a): a t-SNE of generated weights, coloured by level, transparent by time step."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from impala_mi.analysis.generated import GeneratedWeights

matplotlib.use("Agg")
from matplotlib import colormaps
from matplotlib import pyplot as plt

FEWEST = 10


def embed(weights: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """[N, 2] coordinates of [N, D] weights and the name of the method.

    PCA to 50 dimensions, then t-SNE; PCA alone where there are too few distinct weights for neighbourhoods (an
    `mi_task` head generates one matrix a level).
    """
    # Rounded: the same weights differ in their last bits from batch to batch.
    distinct, inverse = np.unique(weights.round(5), axis=0, return_inverse=True)
    if len(distinct) < FEWEST:
        if len(distinct) == 1:
            return np.zeros((len(weights), 2)), "PCA"
        width = min(2, *distinct.shape)
        flat = PCA(width, random_state=seed).fit_transform(distinct)
        return np.pad(flat, ((0, 0), (0, 2 - width)))[inverse.ravel()], "PCA"
    reduced = PCA(min(50, *weights.shape), random_state=seed).fit_transform(weights)
    perplexity = min(30.0, (len(weights) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced), "t-SNE"


def draw(data: GeneratedWeights, names: Sequence[str], seed: int, file: Path) -> None:
    """Embed and draw to a PNG; later steps of an episode are more opaque."""
    points, method = embed(data.weights, seed)
    figure, axes = plt.subplots(figsize=(9, 7), layout="constrained")
    colours = colormaps["tab10" if len(names) <= 10 else "gist_ncar"]
    for k, name in enumerate(names):
        mine = data.level == k
        if not mine.any():
            continue
        time = data.time[mine]
        alpha = np.clip(0.1 + 0.9 * time / max(int(time.max()), 1), 0, 1)
        colour = colours(k) if len(names) <= 10 else colours(k / len(names))
        x, y = points[mine].T
        axes.scatter(x, y, s=12, color=colour, alpha=alpha, linewidths=0)
        axes.scatter([], [], s=30, color=colour, label=name)
    axes.set(xticks=[], yticks=[], title=f"{method} of generated weights (faint: early in the episode)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
