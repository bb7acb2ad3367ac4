"""Figure 4(b, c): the agent's heads on one suite by equal frames, and what each level gets alone (section 6.1).

Every head is trained from several seeds as separate runs of `impala-mi train`, and scored over complete episodes by
`impala-mi eval`. How much the levels stand in each other's way is measured apart: by agents of one level each, with
the shared head, that see as many frames of it as it had among the others. The paper has no such agents; it takes
the gain of one head per task as the sign of interference.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from impala_mi.analysis.compare import curve, interval
from impala_mi.analysis.history import History, read
from impala_mi.config import Config, build, to_yaml
from impala_mi.errors import TrainingError, UserError
from impala_mi.experiments.findings import Cell, Findings, Table
from impala_mi.experiments.study import Progress, Study
from impala_mi.rundir import write_atomically

HEADS = ("shared", "per_task", "mi_task", "mi_context")
ALONE = "one agent a level"
QUICK_FRAMES = 1_000_000
POLL_S = 2.0
Told = Callable[[float], None]
"""Told the share of its own work that is done."""
CLAIM = (
    "one head per task beats a shared head, a multiplicative head whose context comes from the task beats both, "
    "and one whose context is learnt does as well without being told the task (figure 4)."
)


def run(study: Study) -> Findings:
    """Train and score each head from each seed, or what is left of it, and compare them."""
    config = build("the study's configuration", study.settings["config"], [])
    seeds = [study.seed + number for number in range(study.settings["seeds"])]
    plan = [(name, seed) for seed in seeds for name in (*HEADS, ALONE)]
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in (*HEADS, ALONE)}
    for number, (name, seed) in enumerate(plan):
        told = partial(_told, study.progress, number / len(plan), 1 / len(plan), f"{name}, seed {seed}")
        part = study.part(f"{name.replace(' ', '-')}-{seed}", partial(_scores, study, config, name, seed, told))
        scores[name].append(part["scores"])
    return findings(study.folder / "runs", scores, seeds)


def _told(progress: Progress, start: float, length: float, what: str, share: float) -> None:
    progress(start + length * share, what)


def _scores(study: Study, config: Config, name: str, seed: int, told: Told) -> dict[str, Any]:
    """Normalised scores by level of one agent, or of one agent a level."""
    train = partial(_train, study.folder / "runs", config, study.settings["episodes"])
    if name != ALONE:
        return {"scores": train(f"{name}-{seed}", [f"agent.head={name}", f"seed={seed}"], told)}
    found: dict[str, float] = {}
    levels = study.settings["levels"]
    for number, level in enumerate(levels):
        changes = [
            "agent.head=shared", f"seed={seed}", f"env.levels=[{json.dumps(level)}]",
            f"train.env_frames={int(config.train.env_frames) // len(levels)}",
        ]  # fmt: skip
        mine = partial(_told, lambda share, _: told(share), number / len(levels), 1 / len(levels), level)
        found |= train(f"alone-{level.replace('/', '-')}-{seed}", changes, mine)
    return {"scores": found}


def _train(
    root: Path, config: Config, episodes: int, name: str, changes: Sequence[str], told: Told
) -> dict[str, float]:
    """Train one run, or go on with it, and score it: by level, 0 a random player, 100 the reference."""
    root.mkdir(parents=True, exist_ok=True)
    folder, file, log = root / name, root / f"{name}.yaml", root / f"{name}.log"
    write_atomically(file, to_yaml(config))
    names = [f"run.root={root}", f"run.name={name}"]
    _call(["train", str(file), *changes, *names, "--resume", "auto"], log, folder, told)
    _call(["eval", str(folder), "--episodes", str(episodes)], log, folder, told)
    return {row["level"]: row["score"] for row in read(str(folder)).evaluations[0]["levels"]}


def _call(arguments: Sequence[str], log: Path, folder: Path, told: Told) -> None:
    """A command of ours, in its own process; an interrupt is passed on and waited for: it writes a checkpoint."""
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "impala_mi", *arguments], stdout=out, stderr=out, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                told(_share(folder))
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if process.returncode:
        raise TrainingError(f"impala-mi {arguments[0]} of {folder.name} ended with {process.returncode}: see {log}")


def _share(folder: Path) -> float:
    """Of its frames that a run has done."""
    try:
        run = read(str(folder))
        return float(min(1.0, run.last["env_frames"] / run.settings["train.env_frames"]))
    except (UserError, KeyError):  # it has not begun
        return 0.0


def findings(runs: Path, scores: dict[str, list[dict[str, float]]], seeds: Sequence[int]) -> Findings:
    """Compare the heads by their mean capped score over levels; intervals are of 95 % over seeds."""
    levels = list(scores[HEADS[0]][0])
    table = {name: np.array([[row[level] for level in levels] for row in rows]) for name, rows in scores.items()}
    capped = {name: np.minimum(rows, 100.0).mean(1) for name, rows in table.items()}
    gains = {name: _gain(capped[name], capped["shared"]) for name in (*HEADS[1:], ALONE)}

    def row(name: str) -> list[Cell]:
        mean, half = interval(capped[name])
        gain = gains.get(name)
        more = None if gain is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain)
        return [name, f"{mean:.1f} ± {half:.1f}", more, *(float(x) for x in table[name].mean(0))]

    title = f"Mean capped score over levels, {len(seeds)} seeds, and the mean of each level"
    return Findings(
        CLAIM,
        verdict(gains),
        [Table(title, ["head", "capped mean", "more than shared", *levels], [row(name) for name in table])],
        {"multitask": _draw(runs, seeds, capped)},
        {"levels": levels, "seeds": list(seeds), "gains": gains}
        | {"scores": {name: rows.tolist() for name, rows in table.items()}},
    )


def _gain(rows: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """Difference of means with Welch's 95 % interval."""
    found = stats.ttest_ind(rows, base, equal_var=False).confidence_interval(0.95)
    return float(rows.mean() - base.mean()), float(found.low), float(found.high)


def verdict(gains: dict[str, tuple[float, float, float]]) -> str:
    """In one sentence: a head beats the shared one where the interval of the difference is above 0."""
    said = {name: f"{g[0]:+.1f} [{g[1]:+.1f}, {g[2]:+.1f}]" for name, g in gains.items()}
    better = [name for name in HEADS[1:] if gains[name][1] > 0]
    worse = [name for name in HEADS[1:] if gains[name][2] < 0]
    alone = gains[ALONE]
    interference = "there is" if alone[1] > 0 else "levels help each other" if alone[2] < 0 else "none is shown"
    how = f"held for {', '.join(better)}" if better else "was not shown"
    return (
        f"the claim {how}: over the shared head "
        + ", ".join(f"{name} {said[name]}" for name in HEADS[1:])
        + (f"; {', '.join(worse)} did worse" if worse else "")
        + f". Interference: {interference} (agents of one level each, at as many frames of it: {said[ALONE]})."
    )


def _draw(runs: Path, seeds: Sequence[int], capped: dict[str, np.ndarray]) -> Figure:
    """Figure 4(b, c): capped score over frames while training, and as evaluated."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for number, name in enumerate(HEADS):
        histories: list[History] = [read(str(runs / f"{name}-{seed}")) for seed in seeds]
        if (found := curve(histories, "score/capped_mean")) is not None:
            left.plot(found.frames / 1e6, found.mean, color=f"C{number}", label=name)
            if found.low is not None and found.high is not None:
                left.fill_between(found.frames / 1e6, found.low, found.high, color=f"C{number}", alpha=0.15, lw=0)
    left.set(xlabel="env frames (millions)", ylabel="mean capped score, last episodes", ylim=(0, None))
    if left.lines:
        left.legend(frameon=False)
    for number, (name, values) in enumerate(capped.items()):
        right.plot([number] * len(values), values, "o", color="0.6" if name == ALONE else f"C{number}", alpha=0.6)
        right.plot([number - 0.25, number + 0.25], [values.mean()] * 2, color="0.2")
    right.set_xticks(range(len(capped)), [name.replace(" ", "\n", 1) for name in capped], rotation=40, ha="right")
    right.set(ylabel="mean capped score, evaluated", ylim=(0, None))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure
