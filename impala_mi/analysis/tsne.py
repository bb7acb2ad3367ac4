"""The paper's figure 4(a): a t-SNE of generated weights, coloured by level, transparent by time step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from impala_mi.analysis.clusters import LevelSeparation, principal_components
from impala_mi.analysis.colours import MARKERS, palette
from impala_mi.analysis.recording import Recording

MIN_DISTINCT = 10
"""Distinct vectors that t-SNE needs; fewer are projected by PCA."""
KINDS = {
    "policy": "generated weights of the policy",
    "value": "generated weights of the value",
    "context": "context",
    "core": "state of the core",
}
"""Kinds of vectors, and their names in pictures."""


@dataclass(frozen=True)
class Panel:
    """One of several maps that are drawn side by side."""

    title: str
    recording: Recording
    kind: str
    """Kind of vectors."""
    points: np.ndarray
    """Coordinates [N, 2]."""
    method: str


def embed(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Coordinates [N, 2] of vectors [N, D], and the name of the method.

    The method is PCA to 50 dimensions and then t-SNE. It is PCA alone if there are too few distinct vectors for
    neighbourhoods (an `mi_task` head generates one matrix per level).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    # Rounded, because the same weights differ in their last bits from batch to batch.
    number: dict[bytes, int] = {}
    rounded = vectors.round(5) + 0.0  # no -0
    inverse = np.array([number.setdefault(row.tobytes(), len(number)) for row in rounded])
    if len(number) < MIN_DISTINCT:
        distinct = rounded[np.unique(inverse, return_index=True)[1]]
        if len(distinct) == 1:
            return np.zeros((len(vectors), 2)), "PCA"
        width = min(2, *distinct.shape)
        flat = PCA(width, random_state=seed).fit_transform(distinct)
        return np.pad(flat, ((0, 0), (0, 2 - width)))[inverse], "PCA"
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(principal_components(vectors, seed)), "t-SNE"


def make_panel(title: str, recording: Recording, kind: str, seed: int) -> Panel:
    """Embed one kind of a recording's vectors."""
    return Panel(title, recording, kind, *embed(recording.vectors[kind], seed))


def opacity(time: np.ndarray) -> np.ndarray:
    """Opacity [N] in [0.15, 1]: later steps of an episode are more opaque, by octaves as they were sampled."""
    longest = np.log2(max(int(time.max()), 1) + 1)
    return np.asarray(0.15 + 0.85 * np.log2(time + 1) / longest)


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def draw_maps(panels: Sequence[Panel], files: Sequence[Path]) -> None:
    """Draw the maps side by side, to files of several formats."""
    names = panels[0].recording.names
    columns = -(-len(names) // 36)
    figure = Figure(figsize=(6.5 * len(panels) + 2.4 * columns, 7), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    styles = palette(names)
    for axes, panel in zip(row, panels, strict=True):
        alpha = opacity(panel.recording.time)
        for k, (colour, marker) in enumerate(styles):
            of_level = panel.recording.level == k
            x, y = panel.points[of_level].T
            axes.scatter(x, y, s=13, color=colour, alpha=alpha[of_level], linewidths=0, marker=MARKERS[marker])
        axes.set(xticks=[], yticks=[], title=f"{panel.title}\n{panel.method} of the {KINDS[panel.kind]}")
    for name, (colour, marker) in zip(names, styles, strict=True):
        row[-1].scatter([], [], s=30, color=colour, marker=MARKERS[marker], label=name)
    row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8, ncols=columns)
    figure.supxlabel("faint: early in the episode", fontsize=9)
    for file in files:
        figure.savefig(file, dpi=150)


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def draw_separation(separation: dict[str, list[LevelSeparation]], file: Path) -> None:
    """Draw purity and silhouette by octave, one line for each name."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    purity, silhouette = figure.subplots(1, 2)
    longest = max(separation.values(), key=len, default=[])
    places = {row.first: place for place, row in enumerate(longest)}
    labels = [str(row.first) if row.first == row.last else f"{row.first}-{row.last}" for row in longest]
    colours = colormaps["tab20" if len(separation) > 10 else "tab10"]
    for number, (name, rows) in enumerate(separation.items()):
        rows = [row for row in rows if row.first in places]
        steps = [places[row.first] for row in rows]
        style = {"marker": "o", "markersize": 4, "color": colours(number % 20)}
        purity.plot(steps, [row.purity for row in rows], label=name, **style)
        silhouette.plot(steps, [row.silhouette for row in rows], **style)
    purity.plot([row.chance for row in longest], color="0.5", linestyle="--", label="chance")
    for axes, title, limits in (
        (purity, "neighbours of the same level", (0, 1.02)),
        (silhouette, "silhouette", (-1.02, 1.02)),
    ):
        axes.set(ylim=limits, title=title, xlabel="agent steps since the start of the episode")
        axes.set_xticks(range(len(labels)), labels, rotation=45, fontsize=8)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
