"""Which units are whose: selectivity, and what is lost without single directions.

After Morcos et al. 2018 ("On the importance of single directions for generalization"): a unit's selectivity for a
level is (its mean there - its mean elsewhere) / (their sum), its importance the drop in score when it is held at 0.
"""

import contextlib
import warnings
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


BASELINE = 4
"""Times as many episodes are played whole: every ablation is compared with them."""
SILENT = 0.01
"""Of the most active unit's mean, below which a unit says too little to prefer anything."""
RATE = 0.05
"""Of false discoveries among those that are marked (Benjamini and Hochberg)."""


@dataclass(frozen=True)
class Ablations:
    """Drops of U ablations on K levels."""

    names: list[str]
    """[U] of the ablations."""
    drop: np.ndarray
    """[K, U] in normalised score, or in return where there are no references."""
    p: np.ndarray
    """[K, U] of Welch's t test between the episodes with and without."""
    normalised: bool

    @property
    def real(self) -> np.ndarray:
        """[K, U] which drops, or gains, are found to be so at a false discovery rate of `RATE`."""
        return np.asarray(stats.false_discovery_control(self.p, axis=None) < RATE).reshape(self.p.shape)


def check(agent: Agent, what: What) -> None:
    """Raise `UserError` where the agent's policy has no such directions."""
    if agent.head.context is None:
        raise UserError(f"agent.head={agent.head.kind} has no context and generates no weights")
    if not isinstance(agent.head.policy, MultiplicativeOutput):
        raise UserError("agent.conditioned=value: the policy, which scores are of, does not depend on the context")


def selectivity(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """[U] preferred level of each unit of the context, and [U] how much it prefers it: 0 to 1, 0 if it is dead.

    Of the steps that were recorded, in which early ones count for more than they are played. 0 with a single level.
    """
    active = recording.vectors["context"]
    levels = np.unique(recording.level)
    means = np.stack([active[recording.level == k].mean(0) for k in levels])  # [K, U], not below 0
    best = means.argmax(0)
    there = means[best, np.arange(means.shape[1])]
    if len(levels) == 1:
        return levels[best], np.zeros_like(there)
    elsewhere = (means.sum(0) - there) / (len(levels) - 1)
    prefers = (there - elsewhere) / np.maximum(there + elsewhere, 1e-12)
    return levels[best], np.where(there > SILENT * there.max(), prefers, 0.0)


@contextlib.contextmanager
def without(agent: Agent, what: What, number: int) -> Iterator[None]:
    """The agent with one unit of the context, or one action's generated weights, held at 0.

    Without its generated weights an action has its generated bias alone.
    """
    check(agent, what)
    if what == "context":
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


def episodes_played(levels: int, ablations: int, episodes: int) -> int:
    """By `ablate`."""
    return levels * episodes * (BASELINE + ablations)


def ablate(
    agent: Agent, suite: Suite, what: What, numbers: Sequence[int], episodes: int, seed: int, on_episode: OnEpisode
) -> Ablations:
    """Play `episodes` of every level without each, and `BASELINE` times as many whole; from the same seeds."""
    check(agent, what)
    ranked = has_references(suite.levels)

    def scores(times: int) -> list[np.ndarray]:
        played = play(agent, suite, times * episodes, seed, on_episode=on_episode)
        return [_scores(level, some, ranked) for level, some in zip(suite.levels, played, strict=True)]

    with torch.inference_mode():
        whole = scores(BASELINE)
        drops, ps = [], []
        for number in numbers:
            with without(agent, what, number):
                found = scores(1)
            drops.append([float(w.mean() - f.mean()) for w, f in zip(whole, found, strict=True)])
            ps.append([_p(w, f) for w, f in zip(whole, found, strict=True)])
    names = [suite.actions[n] if what == "rows" else str(n) for n in numbers]
    return Ablations(names, np.array(drops).T, np.array(ps).T, ranked)


def _scores(level: Level, played: Sequence[Episode], ranked: bool) -> np.ndarray:
    returns = np.array([e.return_ for e in played])
    return np.asarray(normalised(level, returns)) if ranked else returns


def _p(whole: np.ndarray, found: np.ndarray) -> float:
    if np.ptp(whole) == np.ptp(found) == 0:  # the test has no answer where nothing varies
        return float(whole[0] == found[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one of the two may be constant, which is no loss here
        return float(stats.ttest_ind(whole, found, equal_var=False).pvalue)


def agreement(strength: np.ndarray, found: Ablations) -> float | None:
    """Spearman's rank correlation of all units' selectivity and their mean absolute drop.

    None of fewer than three, and where drops are of returns, of which one level's may outweigh all others'.
    """
    sizes = np.abs(found.drop).mean(0)
    if not found.normalised or len(strength) < 3 or np.ptp(strength) == 0 or np.ptp(sizes) == 0:
        return None
    rho = float(stats.spearmanr(strength, sizes).statistic)
    return rho if np.isfinite(rho) else None


def draw(found: Ablations, levels: Sequence[str], preferred: Sequence[int | None], title: str, file: Path) -> None:
    """The drops as a heat map; a dot: found to be real, a frame: a unit's preferred level, where it has one."""
    u, k = len(found.names), len(levels)
    figure = Figure(figsize=(max(7.0, 3.2 + 0.32 * u), 2.2 + 0.34 * k), layout="constrained")
    axes = figure.subplots()
    most = float(np.abs(found.drop).max()) or 1.0
    image = axes.imshow(found.drop, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    rows, columns = np.nonzero(found.real)
    axes.scatter(columns, rows, s=8, color="black")
    framed = [unit for unit, level in enumerate(preferred) if level is not None]
    at = [level for level in preferred if level is not None]
    axes.scatter(framed, at, s=110, marker="s", facecolors="none", edgecolors="black", linewidths=0.8)
    axes.set_xticks(range(u), found.names, rotation=90, fontsize=7)
    axes.set_yticks(range(k), levels, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("most selective first; frame: preferred level, dot: real", fontsize=8)
    label = "drop in normalised score" if found.normalised else "drop in return"
    figure.colorbar(image, ax=axes, label=label)
    figure.savefig(file, dpi=150)
