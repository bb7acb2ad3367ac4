"""Which units are whose: selectivity, and what is lost without single directions.

After Morcos et al. 2018 ("On the importance of single directions for generalization"): a unit's selectivity for a
level is (its mean there - its mean elsewhere) / (their sum), its importance the drop in score when it is held at 0.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from impala_mi.analysis.play import OnEpisode, play
from impala_mi.analysis.recording import Recording
from impala_mi.envs.base import Level, Suite
from impala_mi.envs.scores import has_references, normalised
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.nn.heads import MultiplicativeOutput
from impala_mi.types import Episode

matplotlib.use("Agg")

What = Literal["context", "rows"]


@dataclass(frozen=True)
class Ablations:
    """Drops of U ablations on K levels."""

    names: list[str]
    """[U] of the ablations."""
    drop: np.ndarray
    """[K, U] in normalised score, or in return where there are no references."""
    stderr: np.ndarray
    """[K, U]."""
    normalised: bool


def selectivity(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """[U] preferred level of each unit of the context, and [U] how much it prefers it: 0 to 1, 0 if it is dead."""
    active = recording.vectors["context"]
    levels = np.unique(recording.level)
    means = np.stack([active[recording.level == k].mean(0) for k in levels])  # [K, U], not below 0
    best = means.argmax(0)
    there = means[best, np.arange(means.shape[1])]
    elsewhere = (means.sum(0) - there) / max(1, len(levels) - 1)
    return levels[best], (there - elsewhere) / np.maximum(there + elsewhere, 1e-12)


@contextlib.contextmanager
def without(agent: Agent, what: What, number: int) -> Iterator[None]:
    """The agent with one unit of the context, or one action's generated weights, held at 0.

    Without its generated weights an action has its generated bias alone.
    """
    if agent.head.context is None:
        raise UserError(f"agent.head={agent.head.kind!r} has no context and generates no weights")
    if what == "context":
        handle = agent.head.context.register_forward_hook(_hold_unit(number))
    else:
        if not isinstance(agent.head.policy, MultiplicativeOutput):
            raise UserError("the policy's weights are not generated: agent.conditioned=value")
        handle = agent.head.policy.register_forward_hook(_hold_row(number))
    try:
        yield
    finally:
        handle.remove()


def _hold_unit(number: int) -> Callable[..., Tensor]:
    def hook(_: Any, __: Any, context: Tensor) -> Tensor:
        return context.index_fill(-1, torch.tensor([number]), 0.0)

    return hook


def _hold_row(number: int) -> Callable[..., Tensor]:
    def hook(output: MultiplicativeOutput, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        h, _, context = inputs
        weight = output.layer.generate(context).weight[..., number, :]
        logits = logits.clone()
        logits[..., number] -= (weight * h).sum(-1)
        return logits

    return hook


def count(agent: Agent, what: What) -> int:
    """How many there are to ablate."""
    return agent.config.context_width if what == "context" else agent.spaces.num_actions


def ablate(
    agent: Agent, suite: Suite, what: What, numbers: Sequence[int], episodes: int, seed: int, on_episode: OnEpisode
) -> Ablations:
    """Play `episodes` of every level whole, then without each; all begin with the same seeds."""
    ranked = has_references(suite.levels)

    def scores() -> tuple[np.ndarray, np.ndarray]:
        played = play(agent, suite, episodes, seed, on_episode=on_episode)
        return tuple(np.array(x) for x in zip(*map(_mean, suite.levels, played), strict=True))  # type: ignore[return-value]

    def _mean(level: Level, played: Sequence[Episode]) -> tuple[float, float]:
        values = np.array([e.return_ for e in played])
        if ranked:
            values = np.array(normalised(level, values))
        return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0

    with torch.inference_mode():
        whole, error = scores()
        drops, errors = [], []
        for number in numbers:
            with without(agent, what, number):
                mean, own = scores()
            drops.append(whole - mean)
            errors.append(np.hypot(error, own))
    label = suite.actions.__getitem__ if what == "rows" else str
    return Ablations([label(n) for n in numbers], np.stack(drops, 1), np.stack(errors, 1), ranked)


def agreement(strength: np.ndarray, found: Ablations) -> float | None:
    """Spearman's rank correlation of units' selectivity and their mean absolute drop; None of fewer than three."""
    if len(strength) < 3 or np.ptp(strength) == 0:
        return None
    rho = float(stats.spearmanr(strength, np.abs(found.drop).mean(0)).statistic)
    return rho if np.isfinite(rho) else None


def draw(found: Ablations, levels: Sequence[str], preferred: np.ndarray | None, title: str, file: Path) -> None:
    """The drops as a heat map; a dot: beyond two standard errors, a frame: a unit's preferred level."""
    u, k = len(found.names), len(levels)
    figure = Figure(figsize=(3.2 + 0.32 * u, 1.8 + 0.34 * k), layout="constrained")
    axes = figure.subplots()
    most = max(float(np.abs(found.drop).max()), 1e-9)
    image = axes.imshow(found.drop, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    rows, columns = np.nonzero(np.abs(found.drop) > 2 * found.stderr)
    axes.scatter(columns, rows, s=8, color="black")
    if preferred is not None:
        axes.scatter(
            np.arange(u), preferred, s=110, marker="s", facecolors="none", edgecolors="black", linewidths=0.8
        )
    axes.set_xticks(range(u), found.names, rotation=90, fontsize=7)
    axes.set_yticks(range(k), levels, fontsize=8)
    axes.set_title(title, fontsize=10)
    label = "drop in normalised score" if found.normalised else "drop in return"
    figure.colorbar(image, ax=axes, label=label)
    figure.savefig(file, dpi=150)
