"""The paper's figure 4(a): a t-SNE of generated weights, coloured by level, transparent by time step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from impala_mi.analysis.clusters import Apartness, reduce
from impala_mi.analysis.colours import MARKERS, palette
from impala_mi.analysis.recording import Recording

matplotlib.use("Agg")

FEWEST = 10
WHAT = {
    "policy": "generated weights of the policy",
    "value": "generated weights of the value",
    "context": "context",
    "core": "state of the core",
}


@dataclass(frozen=True)
class Panel:
    """One of the maps that are drawn side by side."""

    title: str
    recording: Recording
    kind: str
    """Of vectors."""
    points: np.ndarray
    """[N, 2]."""
    method: str


def embed(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """[N, 2] coordinates of [N, D] vectors and the name of the method.

    PCA to 50 dimensions, then t-SNE; PCA alone where there are too few distinct vectors for neighbourhoods (an
    `mi_task` head generates one matrix a level).
    """
    # Rounded: the same weights differ in their last bits from batch to batch.
    number: dict[bytes, int] = {}
    rounded = vectors.round(5) + 0.0  # no -0
    inverse = np.array([number.setdefault(row.tobytes(), len(number)) for row in rounded])
    if len(number) < FEWEST:
        distinct = rounded[np.unique(inverse, return_index=True)[1]]
        if len(distinct) == 1:
            return np.zeros((len(vectors), 2)), "PCA"
        width = min(2, *distinct.shape)
        flat = PCA(width, random_state=seed).fit_transform(distinct)
        return np.pad(flat, ((0, 0), (0, 2 - width)))[inverse], "PCA"
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduce(vectors, seed)), "t-SNE"


def panel(title: str, recording: Recording, kind: str, seed: int) -> Panel:
    """Embed one kind of a recording's vectors."""
    return Panel(title, recording, kind, *embed(recording.vectors[kind], seed))


def opacity(time: np.ndarray) -> np.ndarray:
    """[N] in [0.15, 1]: later steps of an episode are more opaque, by octaves as they were sampled."""
    longest = np.log2(max(int(time.max()), 1) + 1)
    return np.asarray(0.15 + 0.85 * np.log2(time + 1) / longest)


def draw(panels: Sequence[Panel], files: Sequence[Path]) -> None:
    """The maps side by side, to files of several formats."""
    names = panels[0].recording.names
    rows = -(-len(names) // 36)
    figure = Figure(figsize=(6.5 * len(panels) + 2.4 * rows, 7), layout="constrained")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    looks = palette(names)
    for axes, one in zip(every, panels, strict=True):
        alpha = opacity(one.recording.time)
        for k, (colour, marker) in enumerate(looks):
            mine = one.recording.level == k
            x, y = one.points[mine].T
            axes.scatter(x, y, s=13, color=colour, alpha=alpha[mine], linewidths=0, marker=MARKERS[marker])
        axes.set(xticks=[], yticks=[], title=f"{one.title}\n{one.method} of the {WHAT[one.kind]}")
    for name, (colour, marker) in zip(names, looks, strict=True):
        every[-1].scatter([], [], s=30, color=colour, marker=MARKERS[marker], label=name)
    every[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, ncols=rows)
    figure.supxlabel("faint: early in the episode", fontsize=9)
    for file in files:
        figure.savefig(file, dpi=150)


def draw_apartness(found: dict[str, list[Apartness]], file: Path) -> None:
    """Purity and silhouette by octave, a line for each name."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    longest = max(found.values(), key=len, default=[])
    places = {row.first: place for place, row in enumerate(longest)}
    labels = [str(row.first) if row.first == row.last else f"{row.first}-{row.last}" for row in longest]
    colours = matplotlib.colormaps["tab20" if len(found) > 10 else "tab10"]
    for number, (name, rows) in enumerate(found.items()):
        steps = [places[row.first] for row in rows if row.first in places]
        look = {"marker": "o", "markersize": 4, "color": colours(number % 20)}
        left.plot(steps, [row.purity for row in rows if row.first in places], label=name, **look)
        right.plot(steps, [row.silhouette for row in rows if row.first in places], **look)
    left.plot([row.chance for row in longest], color="0.5", linestyle="--", label="chance")
    for axes, title, limits in (
        (left, "neighbours of the same level", (0, 1.02)),
        (right, "silhouette", (-1.02, 1.02)),
    ):
        axes.set(ylim=limits, title=title, xlabel="agent steps since the start of the episode")
        axes.set_xticks(range(len(labels)), labels, rotation=45, fontsize=8)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
