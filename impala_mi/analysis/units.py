"""Selectivity of units, and the drop in score without single directions.

As in Morcos et al. 2018 ("On the importance of single directions for generalization"): a unit's selectivity for a
level is (mean on the level - mean elsewhere) / (their sum), its importance the drop in score if it is held at 0.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from impala_mi.analysis.play import OnEpisode, play
from impala_mi.analysis.recording import Recording
from impala_mi.analysis.stats import welch_p
from impala_mi.envs.base import Level, Suite
from impala_mi.envs.scores import has_references, normalised
from impala_mi.errors import UserError
from impala_mi.nn.agent import Agent
from impala_mi.nn.heads import ContextOutput
from impala_mi.types import Discrete, Episode

Ablated = Literal["context", "rows"]
"""Units of the context, or rows of the policy's generated weights (one per action)."""

BASELINE = 4
"""Factor by which more episodes are played without ablation; every ablation is compared with them."""
SILENT = 0.01
"""Share of the most active unit's mean below which a unit counts as dead."""
FALSE_DISCOVERY_RATE = 0.05
"""Rate of false discoveries among marked drops (Benjamini and Hochberg)."""


@dataclass(frozen=True)
class Ablations:
    """Drops of U ablations on K levels."""

    names: list[str]
    """Names [U] of the ablated directions."""
    drop: np.ndarray
    """Drops [K, U] in normalised score, or in return if there are no references."""
    p: np.ndarray
    """p values [K, U] of Welch's t test between the episodes with and without ablation."""
    normalised: bool
    """Whether drops are in normalised score."""

    @property
    def real(self) -> np.ndarray:
        """Whether drops or gains [K, U] are significant at `FALSE_DISCOVERY_RATE`."""
        return np.asarray(stats.false_discovery_control(self.p, axis=None) < FALSE_DISCOVERY_RATE).reshape(
            self.p.shape
        )


def check_ablatable(agent: Agent) -> None:
    """Raise `UserError` if the agent's policy does not depend on a context."""
    if not agent.head.spec.generates_weights:
        raise UserError(f"agent.head={agent.config.head} generates no weights from a context")
    if not isinstance(agent.head.policy, ContextOutput):
        raise UserError("agent.conditioned=value: the policy, which scores are of, does not depend on the context")


def selectivity(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Preferred level [U] of each unit of the context, and its selectivity [U] from 0 to 1; dead units have 0.

    The means are over recorded steps, which over-represent the start of episodes. With a single level selectivity
    is 0.
    """
    active = recording.vectors["context"]
    levels = np.unique(recording.level)
    means = np.stack([active[recording.level == k].mean(0) for k in levels])  # [K, U], not below 0
    best = means.argmax(0)
    on_best = means[best, np.arange(means.shape[1])]
    if len(levels) == 1:
        return levels[best], np.zeros_like(on_best)
    elsewhere = (means.sum(0) - on_best) / (len(levels) - 1)
    prefers = (on_best - elsewhere) / np.maximum(on_best + elsewhere, 1e-12)
    return levels[best], np.where(on_best > SILENT * on_best.max(), prefers, 0.0)


@contextlib.contextmanager
def without(agent: Agent, ablated: Ablated, number: int) -> Iterator[None]:
    """Hold one unit of the context, or one action's generated weights, at 0 while the block runs.

    Without its generated weights an action has only its generated bias.
    """
    check_ablatable(agent)
    if ablated == "context":
        assert agent.head.context is not None
        handle = agent.head.context.register_forward_hook(_hold_unit(number))
    else:
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
    def hook(output: ContextOutput, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        h, _, context = inputs
        layer: Any = output.layer
        weight = layer.generate(context).weight[..., number, :]
        logits = logits.clone()
        logits[..., number] -= (weight * h).sum(-1)
        return logits

    return hook


def count(agent: Agent, ablated: Ablated) -> int:
    """Number of directions that can be ablated."""
    return agent.head.config.context_width if ablated == "context" else agent.spaces.action_space.num_params


def episodes_played(levels: int, ablations: int, episodes: int) -> int:
    """Number of episodes that `ablate` plays."""
    return levels * episodes * (BASELINE + ablations)


def ablate(
    agent: Agent,
    suite: Suite,
    ablated: Ablated,
    numbers: Sequence[int],
    episodes: int,
    seed: int,
    on_episode: OnEpisode,
) -> Ablations:
    """Play `episodes` of every level with each ablation, and `BASELINE` times as many without, with equal seeds."""
    check_ablatable(agent)
    ranked = has_references(suite.levels)

    def scores(times: int) -> list[np.ndarray]:
        played = play(agent, suite, times * episodes, seed, on_episode=on_episode)
        return [_scores(level, own, ranked) for level, own in zip(suite.levels, played, strict=True)]

    with torch.inference_mode():
        whole = scores(BASELINE)
        drops, ps = [], []
        for number in numbers:
            with without(agent, ablated, number):
                remaining = scores(1)
            drops.append([float(w.mean() - f.mean()) for w, f in zip(whole, remaining, strict=True)])
            ps.append([welch_p(w, f) for w, f in zip(whole, remaining, strict=True)])
    named = ablated == "rows" and isinstance(suite.spaces.action_space, Discrete)
    names = [suite.actions[n] if named else str(n) for n in numbers]
    return Ablations(names, np.array(drops).T, np.array(ps).T, ranked)


def _scores(level: Level, played: Sequence[Episode], ranked: bool) -> np.ndarray:
    returns = np.array([e.return_ for e in played])
    return np.asarray(normalised(level, returns)) if ranked else returns


def agreement(strength: np.ndarray, ablations: Ablations) -> float | None:
    """Spearman's rank correlation of all units' selectivity and their mean absolute drop.

    None for fewer than three units, and if drops are in return, where one level may outweigh all others.
    """
    sizes = np.abs(ablations.drop).mean(0)
    if not ablations.normalised or len(strength) < 3 or np.ptp(strength) == 0 or np.ptp(sizes) == 0:
        return None
    rho = float(stats.spearmanr(strength, sizes).statistic)
    return rho if np.isfinite(rho) else None


@rc_context({"text.parse_math": False})  # names may hold dollar signs
def draw_drops(
    ablations: Ablations, levels: Sequence[str], preferred: Sequence[int | None], title: str, file: Path
) -> None:
    """Draw the drops as a heat map; a dot marks a significant drop, a frame a unit's preferred level, if any."""
    u, k = len(ablations.names), len(levels)
    figure = Figure(figsize=(max(7.0, 3.2 + 0.32 * u), 2.2 + 0.34 * k), layout="constrained")
    axes = figure.subplots()
    most = float(np.abs(ablations.drop).max()) or 1.0
    image = axes.imshow(ablations.drop, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    rows, columns = np.nonzero(ablations.real)
    axes.scatter(columns, rows, s=8, color="black")
    framed = [unit for unit, level in enumerate(preferred) if level is not None]
    at = [level for level in preferred if level is not None]
    axes.scatter(framed, at, s=110, marker="s", facecolors="none", edgecolors="black", linewidths=0.8)
    axes.set_xticks(range(u), ablations.names, rotation=90, fontsize=7)
    axes.set_yticks(range(k), levels, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("most selective first; frame: preferred level, dot: real", fontsize=8)
    label = "drop in normalised score" if ablations.normalised else "drop in return"
    figure.colorbar(image, ax=axes, label=label)
    figure.savefig(file, dpi=150)
