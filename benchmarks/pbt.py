"""Benchmark run by hand: a population compared with as many independent runs of the same budget, over seeds.

python benchmarks/pbt.py FOLDER SEEDS [CONFIG] [KEY=VALUE]...

Both arms have the same members: seeds, initial hyperparameters, turns and frames. Independent members never copy or
change anything. Every member is then evaluated over complete episodes. Writes pbt.json and pbt.png to FOLDER.
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np

from impala_mi.analysis.stats import mean_interval
from impala_mi.pbt.journal import read
from impala_mi.pbt.lineage import MemberHistory, member_histories

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ARMS = {"population": (), "independent": ("pbt.threshold=1e9", "pbt.probability=0")}
EPISODES = 100
COLOURS = {"population": "C3", "independent": "C0"}


def impala_mi(*arguments: str) -> None:
    """Run a command of impala-mi that must succeed."""
    subprocess.run([sys.executable, "-m", "impala_mi", *arguments], check=True)


def scores(folder: Path) -> list[float]:
    """Mean capped score of the last checkpoint of each member."""
    capped_means = []
    for member in sorted((folder / "members").iterdir()):
        impala_mi("eval", str(member), "--episodes", str(EPISODES))
        [file] = (member / "eval").glob("*.json")
        capped_means.append(json.loads(file.read_text())["capped_mean"])
    return capped_means


def curves(histories: dict[str, MemberHistory], frames: np.ndarray) -> np.ndarray:
    """Fitness of the members at the given numbers of frames, [members, points]."""
    return np.stack([np.interp(frames, h.frames, h.fitness, left=np.nan) for h in histories.values() if h.frames])


def main() -> None:
    """Train, evaluate and plot."""
    folder, seeds = Path(sys.argv[1]), int(sys.argv[2])
    config, *overrides = sys.argv[3:] or ["cartpole_pbt"]
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, list[dict[str, object]]] = {arm: [] for arm in ARMS}
    histories: dict[str, list[dict[str, MemberHistory]]] = {arm: [] for arm in ARMS}
    for seed in range(1, seeds + 1):
        for arm, settings in ARMS.items():
            named = (f"run.root={folder}", f"run.name={arm}-{seed}", f"seed={seed}")
            if not (folder / f"{arm}-{seed}").exists():  # an earlier call has trained it
                impala_mi("pbt", config, *named, *overrides, *settings)
    for seed in range(1, seeds + 1):
        for arm in ARMS:
            run = folder / f"{arm}-{seed}"
            if not (run / "evaluated").exists():
                (run / "evaluated").write_text(json.dumps(scores(run)))
            lines = read(run)
            histories[arm].append(member_histories(lines, run))
            copies = sum(line["event"] == "applied" and line["copied"] for line in lines)
            result[arm].append({"scores": json.loads((run / "evaluated").read_text()), "copies": copies})
    (folder / "pbt.json").write_text(json.dumps(result, indent=1) + "\n")
    for arm, runs in result.items():
        best, mean = (np.array([f(run["scores"]) for run in runs]) for f in (max, np.mean))
        for name, values in (("best", best), ("mean", mean)):
            centre, half = mean_interval(values)
            print(f"{arm}: {name} of the members {centre:.1f} +- {half:.1f} over {seeds} seeds: {values.round(1)}")
        print(f"{arm}: copies {[run['copies'] for run in runs]}")
    draw(histories, result, folder / "pbt.png")


def draw(
    histories: dict[str, list[dict[str, MemberHistory]]], result: dict[str, list[dict[str, object]]], file: Path
) -> None:
    """Plot the best and mean fitness of the members over frames, and the final scores of all members."""
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained", width_ratios=[2, 2, 1.3])
    end = min(h.end for runs in histories.values() for run in runs for h in run.values())
    frames = np.linspace(0, end, 60)
    for arm, runs in histories.items():
        fitness = [curves(run, frames) for run in runs]
        for ax, reduce in zip(axes[:2], (np.nanmax, np.nanmean), strict=True):
            lines = np.stack([reduce(np.where(np.isnan(run).all(0), 0, run), 0) for run in fitness])
            ax.plot(frames / 1e3, lines.T, color=COLOURS[arm], lw=0.7, alpha=0.4)
            ax.plot(frames / 1e3, lines.mean(0), color=COLOURS[arm], lw=2.2, label=arm)
    for ax, title in zip(axes, ("best of the members", "mean of the members", "evaluated"), strict=True):
        ax.set_title(title, loc="left", fontsize=10)
    axes[0].set(xlabel="thousand env frames of a member", ylabel="fitness while training")
    axes[1].set(xlabel="thousand env frames of a member")
    axes[0].legend(frameon=False)
    for place, (arm, runs) in enumerate(result.items()):
        for seed, run in enumerate(runs):
            x = place + 0.12 * (seed - (len(runs) - 1) / 2)
            axes[2].scatter([x] * len(run["scores"]), run["scores"], s=12, color=COLOURS[arm], alpha=0.7)
    axes[2].set_xticks(range(len(result)), list(result))
    axes[2].set_ylabel(f"score over {EPISODES} episodes")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
