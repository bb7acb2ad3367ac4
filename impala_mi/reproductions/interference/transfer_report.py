"""Table of agents that got a new task after their training."""

from collections.abc import Sequence

import numpy as np

from impala_mi.analysis.stats import bonferroni, mean_interval
from impala_mi.reproductions.interference.results import BASELINE, Run, Transfer, compare
from impala_mi.reproductions.study_report import ResultTable


def transfer_table(transfers: Sequence[Transfer], runs: Sequence[Run]) -> ResultTable:
    """Compare the new task's score with that of an agent that starts untrained, and the old tasks' with before.

    The gain over the shared head is paired by seed; the intervals of the gains at all points hold together at 95 %.
    """
    finals = {(t.point, t.arm, t.seed): t for t in transfers}
    plain = {(run.point, run.arm, run.seed): run for run in runs}
    groups = {
        (t.point, t.arm): sorted(u.seed for u in transfers if (u.point, u.arm) == (t.point, t.arm))
        for t in transfers
    }
    gains = sum(arm != BASELINE for _, arm in groups)
    level = bonferroni(max(1, gains))
    rows = []
    for (point, arm), seeds in groups.items():
        own = [finals[point, arm, seed] for seed in seeds]
        shared = [finals[point, BASELINE, seed].final for seed in seeds]
        gain = compare(np.array([t.final for t in own]), np.array(shared), level)
        first = [plain[point, arm, seed] for seed in seeds]
        untrained = [score_after(run, own[0].frames[-1]) for run in first]
        lost = [t.old[-1] - run.final for t, run in zip(own, first, strict=True)]
        rows.append([
            arm, point.text(), _interval([t.final for t in own]), _interval(untrained), _signed(lost),
            None if arm == BASELINE else f"{gain.mean:+.1f} ± {gain.half:.1f}",
        ])  # fmt: skip
    return ResultTable(
        f"A new task for a trained agent, after {transfers[0].frames[-1]:,} env frames of all tasks: mean ± half "
        "interval of 95 %",
        [
            "head", "trained on", "score of the new task", "a task of an agent from scratch",
            "change of the old tasks", f"gain over the shared head (all {gains} intervals together 95 %)",
        ],
        rows,
    )  # fmt: skip


def score_after(run: Run, frames: int) -> float:
    """Mean score of a run in its first window that ends after that many frames, or in its last."""
    window = next((k for k, end in enumerate(run.frames) if end >= frames), len(run.frames) - 1)
    return float(run.curve[window])


def _signed(values: Sequence[float]) -> str:
    mean, half = mean_interval(np.array(values))
    return f"{mean:+.1f} ± {half:.1f}"


def _interval(values: Sequence[float]) -> str:
    mean, half = mean_interval(np.array(values))
    return f"{mean:.1f} ± {half:.1f}"
