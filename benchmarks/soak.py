"""Benchmark run by hand: growth of memory, files, threads and processes during an hour of training.

python benchmarks/soak.py MINUTES FOLDER [CONFIG] [KEY=VALUE]...

Samples the process tree every ten seconds: unique set size (memory not shared with other programs), object store,
open files, threads, processes, frames per second. Writes soak.csv and soak.png to FOLDER and prints the growth per
hour of each, from a straight line through all but the first fifth of the samples.
"""

import contextlib
import csv
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import psutil

from impala_mi.bench.end_to_end import BenchRun, running
from impala_mi.bench.measure import process_tree
from impala_mi.config import load

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EVERY_S = 10.0
WARM_UP = 0.2
"""Share of the samples at the start that the line does not use."""


def sample(run: BenchRun, last: dict[str, float]) -> dict[str, float]:
    """Measure the process tree now; frames per second are those since the sample `last`."""
    processes, record = process_tree(run.process.pid), run.records()[-1]
    files, threads, store, memory = 0, 0, 0, 0.0
    for p in processes:
        with contextlib.suppress(psutil.Error):  # it may have ended
            files, threads = files + p.num_fds(), threads + p.num_threads()
            memory += p.memory_full_info().uss / 1e6
            if p.name() == "raylet":
                store += p.memory_info().shared
    seconds = record["time_s"] - last.get("time_s", 0.0)
    return {
        "time_s": record["time_s"],
        "frames/s": (record["env_frames"] - last.get("env_frames", 0)) / max(seconds, 1e-9),
        "memory MB": memory,
        "object store MB": store / 2**20,
        "open files": files,
        "threads": threads,
        "processes": len(processes),
        "env_frames": record["env_frames"],
    }


def main() -> None:
    """Train, sample and plot."""
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
    """Print the growth of each quantity and write soak.png to the folder."""
    keys = [key for key in samples[0] if key not in ("time_s", "env_frames")]
    hours = np.array([s["time_s"] for s in samples]) / 3600
    late = hours > hours[-1] * WARM_UP
    figure, axes = plt.subplots(len(keys), 1, figsize=(7, 1.5 * len(keys)), sharex=True, layout="constrained")
    for axis, key in zip(axes, keys, strict=True):
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
