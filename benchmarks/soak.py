"""An hour of training: does it grow?

python benchmarks/soak.py MINUTES FOLDER [CONFIG] [KEY=VALUE]...

Every ten seconds: memory of the whole process tree that nobody else uses (unique set size: other programs that
share libraries come and go), the object store, open files, threads, processes, frames a second. Writes soak.csv and
soak.png to FOLDER and prints each one's growth an hour, by a straight line through all but the first fifth.
"""

import contextlib
import csv
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import psutil

from impala_mi.bench.measure import tree
from impala_mi.bench.training import Run, running
from impala_mi.config import load

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EVERY_S = 10.0
WARM_UP = 0.2


def sample(run: Run, before: dict[str, float]) -> dict[str, float]:
    """What there is now."""
    processes, record = tree(run.process.pid), run.records()[-1]
    files, threads, store, memory = 0, 0, 0, 0.0
    for p in processes:
        with contextlib.suppress(psutil.Error):  # it may have ended
            files, threads = files + p.num_fds(), threads + p.num_threads()
            memory += p.memory_full_info().uss / 1e6
            if p.name() == "raylet":
                store += p.memory_info().shared
    seconds = record["time_s"] - before.get("time_s", 0.0)
    return {
        "time_s": record["time_s"],
        "frames/s": (record["env_frames"] - before.get("env_frames", 0)) / max(seconds, 1e-9),
        "memory MB": memory,
        "object store MB": store / 2**20,
        "open files": files,
        "threads": threads,
        "processes": len(processes),
        "env_frames": record["env_frames"],
    }


def main() -> None:
    """Train, sample, plot."""
    minutes, folder = float(sys.argv[1]), Path(sys.argv[2])
    name, *overrides = [*sys.argv[3:], "smoke"] if len(sys.argv) < 4 else sys.argv[3:]
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[dict[str, float]] = []
    with running(
        load(name, overrides), "train.checkpoint_every_s=120", f"train.max_time_s={60 * minutes + 600}"
    ) as run:
        run.next_record(300)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            samples.append(sample(run, samples[-1] if samples else {}))
            time.sleep(EVERY_S)
            with open(folder / "soak.csv", "w", newline="", encoding="utf-8") as f:
                writer = csv.DictWriter(f, list(samples[0]))
                writer.writeheader()
                writer.writerows(samples)
    draw(samples, folder)


def draw(samples: list[dict[str, float]], folder: Path) -> None:
    """Growth to standard output, soak.png to the folder."""
    shown = [key for key in samples[0] if key not in ("time_s", "env_frames")]
    hours = np.array([s["time_s"] for s in samples]) / 3600
    late = hours > hours[-1] * WARM_UP
    figure, axes = plt.subplots(len(shown), 1, figsize=(7, 1.5 * len(shown)), sharex=True, layout="constrained")
    for axis, key in zip(axes, shown, strict=True):
        values = np.array([s[key] for s in samples])
        slope, height = np.polyfit(hours[late], values[late], 1)
        print(f"{key:18} {np.median(values[late]):10.1f}   {slope:+9.2f} an hour")
        axis.plot(60 * hours, values, lw=0.8)
        axis.plot(60 * hours[late], height + slope * hours[late], lw=0.8, color="black")
        axis.set_ylabel(key)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.savefig(folder / "soak.png", dpi=120)


if __name__ == "__main__":
    main()
