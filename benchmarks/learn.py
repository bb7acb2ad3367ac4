"""Benchmark run by hand: an agent learns CartPole, and memory only with the LSTM; three seeds, minutes each.

python benchmarks/learn.py [RUN_ROOT]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEEDS = (1, 2, 3)
MEMORY = (
    "cartpole", "env.suite=tiny", "env.levels=[memory]", "train.env_frames=150000",
)  # fmt: skip
TASKS = {
    "CartPole-v1": ("cartpole",),
    "memory, lstm": (*MEMORY, "agent.core=lstm"),
    "memory, feedforward": (*MEMORY, "agent.core=feedforward"),
}


def run(root: Path, name: str, arguments: tuple[str, ...], seed: int) -> tuple[float, float, float]:
    """Train and evaluate; returns the mean of 100 episodes, its standard error and the minutes of training."""
    folder = root / f"{name.replace(', ', '-')}-{seed}"
    start = time.monotonic()
    overrides = (f"seed={seed}", f"run.root={root}", f"run.name={folder.name}")
    impala("train", *arguments, *overrides)
    minutes = (time.monotonic() - start) / 60
    impala("eval", str(folder), "--episodes", "100")
    result = json.loads(next((folder / "eval").glob("*.json")).read_text())["levels"][0]["agent"]
    return result["mean"], result["stderr"], minutes


def impala(*arguments: str) -> None:
    """Run a command of impala-mi; prints its output only if it fails."""
    command = [sys.executable, "-m", "impala_mi", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def main() -> None:
    """Run all tasks with all seeds and print a table."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="impala-mi-learn-"))
    print("| task | seed | mean return, 100 episodes | minutes |\n|---|--:|--:|--:|")
    for name, arguments in TASKS.items():
        for seed in SEEDS:
            mean, stderr, minutes = run(root, name, arguments, seed)
            print(f"| {name} | {seed} | {mean:.1f} +- {stderr:.1f} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
