"""Frames per second of training on one Doom level, CPU time by stage, and the distance from the sum of the parts.

python benchmarks/throughput.py [--seconds 60]

health_gathering, shallow torso, LSTM, T = 32, 32 unrolls a batch, action repeat 4. A frame here is an agent step.
The parts are measured alone in this process, with one thread; ideal = cores / sum of their CPU seconds a frame.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from impala_mi.actors.rollout import Rollout
from impala_mi.config import build
from impala_mi.envs.suites import make_suite
from impala_mi.learner.batching import stack
from impala_mi.learner.update import Learner
from impala_mi.types import Transitions

OVERRIDES = [
    "env.suite=doom", "env.levels=[health_gathering]", "agent.torso=shallow", "agent.head=mi_context",
    "actors.count=2", "actors.envs=16", "learner.unroll_length=32", "learner.batch_size=32",
    "learner.optimizer=adam", "learner.epsilon=1e-6", "learner.max_grad_norm=40.0",
    "learner.reward_clipping=none", "train.env_frames=1e9", "train.log_every_s=5.0",
]  # fmt: skip


def cpu(processes: list[psutil.Process]) -> dict[psutil.Process, float]:
    """CPU seconds used so far."""
    out = {}
    for p in processes:
        try:
            times = p.cpu_times()
            out[p] = times.user + times.system
        except psutil.Error:
            pass
    return out


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def per_frame(work: Callable[[], object], frames: int, seconds: float) -> float:
    """CPU microseconds of this process and the games below it per frame of `work`."""
    work()
    before, began, count = cpu(tree(os.getpid())), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        work()
        count += frames
    return 1e6 * (sum(cpu(tree(os.getpid())).values()) - sum(before.values())) / count


def parts(seconds: float) -> dict[str, float]:
    """CPU microseconds a frame of each part alone."""
    torch.set_num_threads(1)
    config = build("parts", {}, OVERRIDES)
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, suite.action_repeat, torch.device("cpu"))
    rollout = Rollout(config, suite, 0)
    rollout.start((0, 0, 0))
    rollout.load(learner.weights(), 0)
    frames = config.learner.unroll_length * config.actors.envs
    whole = per_frame(rollout.unroll, frames, seconds)
    data: Transitions = rollout.unroll().data
    row = type(data.inputs)(*(a[0] for a in data.inputs))
    agent, state, noise = learner.agent, learner.agent.initial_state(config.actors.envs), torch.Generator()
    acting = per_frame(lambda: agent.act(row, state, noise), config.actors.envs, seconds)
    rollout.close()
    batch = stack([data, data], torch.device("cpu"))
    learning = per_frame(lambda: learner.update(batch), 2 * frames, seconds)
    return {"environments": whole - acting, "acting": acting, "learning": learning}


def kind(process: psutil.Process) -> str:
    """The stage that a process of a run belongs to."""
    try:
        name = f"{process.name()} {' '.join(process.cmdline()[:1])}"
    except psutil.Error:
        return "ray and driver"
    for word, stage in (("vizdoom", "games"), ("_Actor", "actors"), ("_Learner", "learner")):
        if word in name:
            return stage
    return "ray and driver"


def training(seconds: float) -> tuple[float, dict[str, float], dict[str, float]]:
    """Frames a second, CPU microseconds a frame by stage, and the last record of a run after 20 s of warm-up."""
    with tempfile.TemporaryDirectory() as root:
        log = Path(root) / "x" / "metrics.jsonl"
        command = [sys.executable, "-m", "impala_mi", "train", "doom", *OVERRIDES, f"run.root={root}", "run.name=x"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

        def steps() -> tuple[float, int]:
            record = json.loads(log.read_text().splitlines()[-1])
            return record["time_s"], record["agent_steps"]

        def wait_for_a_record() -> None:
            size = log.stat().st_size if log.exists() else 0
            while not log.exists() or log.stat().st_size <= size:
                time.sleep(0.02)

        while not log.exists() or len(log.read_text().splitlines()) < 4:
            time.sleep(0.5)
        wait_for_a_record()
        began, before = steps(), cpu(tree(process.pid))
        time.sleep(seconds)
        wait_for_a_record()
        ended, after = steps(), cpu(tree(process.pid))
        frames = ended[1] - began[1]
        stages: dict[str, float] = {}
        for p, used in after.items():
            stage = kind(p)
            stages[stage] = stages.get(stage, 0.0) + 1e6 * (used - before.get(p, 0.0)) / frames
        record = json.loads(log.read_text().splitlines()[-1])
        process.send_signal(signal.SIGTERM)
        process.wait()
    return frames / (ended[0] - began[0]), stages, record


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    alone = parts(arguments.seconds / 10)
    fps, stages, record = training(arguments.seconds)
    ideal = 1e6 * cores / sum(alone.values())
    print("| part, alone | CPU us/frame |\n|---|--:|")
    for name, value in alone.items():
        print(f"| {name} | {value:.0f} |")
    print(f"| sum | {sum(alone.values()):.0f} |\n\n| stage, training | CPU us/frame |\n|---|--:|")
    for name, value in sorted(stages.items()):
        print(f"| {name} | {value:.0f} |")
    print(f"| sum | {sum(stages.values()):.0f} |\n")
    busy = fps * sum(stages.values()) / 1e6
    print(f"training {fps:.0f} frames/s ({4 * fps:.0f} env frames/s), {busy:.2f} of {cores} cores busy, ", end="")
    print(f"lag {record['lag_mean']:.1f}; ideal {ideal:.0f} frames/s; efficiency {fps / ideal:.2f}")


if __name__ == "__main__":
    main()
