"""The parts of training, each alone: environments, acting, learning."""

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from impala_mi.actors.rollout import FIRST_SEED_EPOCH, RolloutWorker, columns_of_groups
from impala_mi.bench.measure import Cost, per_frame
from impala_mi.bench.report import Row
from impala_mi.config import Config, build
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.host.threads import keep_freed_memory
from impala_mi.learner.batching import stack
from impala_mi.learner.transfer import Stager
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import Agent
from impala_mi.nn.precision import choose_dtype
from impala_mi.types import AgentInput, Spaces, Transitions, transitions_buffer

CPU = torch.device("cpu")
BATCHES = (1, 16, 32, 64)
EPISODE_STEPS = 300
"""Of the random unrolls: one episode start in so many."""


def random_unrolls(spaces: Spaces, config: Config, steps: int, width: int) -> Transitions:
    """Unrolls of noise, with as many episode starts as a game might have."""
    rng = np.random.default_rng(0)
    data = transitions_buffer(spaces, steps, width, config.agent.instruction_tokens, config.agent.core_width)
    inputs = data.inputs
    if spaces.frame_dtype == "uint8":
        inputs.frame[:] = rng.integers(0, 256, inputs.frame.shape, dtype=np.uint8)
    else:
        inputs.frame[:] = rng.random(inputs.frame.shape, dtype=np.float32)
    if spaces.instructions:
        inputs.tokens[:, :, :4] = rng.integers(0, 100, (1, width, 4))
    inputs.level[:] = np.arange(width) % spaces.num_levels
    inputs.first[:] = rng.random(inputs.first.shape) < 1 / EPISODE_STEPS
    data.action[:] = rng.integers(0, spaces.num_actions, data.action.shape)
    data.reward[:] = rng.random(data.reward.shape)
    return data


def environments(config: Config, suite: Suite, seconds: float) -> Iterator[Row]:
    """Steps of random actions, one environment of each level."""
    for k, level in enumerate(suite.levels):
        [seeds] = suite.assign_seeds([config.seed], [k])
        vector = VectorEnv(suite, [k], [seeds], config.agent.instruction_tokens)
        try:
            data = transitions_buffer(suite.spaces, 1, 1, config.agent.instruction_tokens, 1)
            out = AgentInput(*(a[0] for a in data.inputs))
            vector.reset(out)
            rng = np.random.default_rng(0)

            def step(vector: VectorEnv = vector, out: AgentInput = out, rng: np.random.Generator = rng) -> None:
                for _ in range(20):
                    vector.step(rng.integers(suite.spaces.num_actions, size=1), out)

            cost = per_frame(step, 20, seconds)
        finally:
            vector.close()
        yield {"level": level.name, "steps/s": 1e6 / cost.wall_us, "cpu us/step": cost.cpu_us}


def acting(config: Config, spaces: Spaces, batch: int, precision: str, threads: int, seconds: float) -> Cost:
    """One step of the network for so many environments."""
    torch.set_num_threads(threads)
    dtype = choose_dtype(precision, config.agent.torso, CPU)  # type: ignore[arg-type]
    agent = Agent(config.agent, spaces).eval().act_in(dtype)
    data = random_unrolls(spaces, config, 1, batch)
    inputs, noise = AgentInput(*(a[0] for a in data.inputs)), torch.Generator()
    state = [agent.initial_state(batch)]

    def act() -> None:
        state[0] = agent.act(inputs, state[0], noise).state

    return per_frame(act, batch, seconds)


def inference(config: Config, spaces: Spaces, threads: Sequence[int], seconds: float) -> Iterator[Row]:
    """Acting by batch, precision and threads."""
    for precision, count, batch in itertools.product(("float32", "bfloat16"), threads, BATCHES):
        cost = acting(config, spaces, batch, precision, count, seconds)
        yield {
            "torso": config.agent.torso, "head": config.agent.head, "precision": precision, "threads": count,
            "batch": batch, "frames/s": 1e6 / cost.wall_us, "cpu us/frame": cost.cpu_us,
        }  # fmt: skip


def learning(config: Config, spaces: Spaces, device: torch.device, seconds: float) -> Row:
    """Updates from a batch of noise, with the time of each stage in microseconds of wall time a frame."""
    keep_freed_memory()
    learner = Learner(config, spaces, 1, device, threads=torch.get_num_threads())
    hand_ins = [
        random_unrolls(spaces, config, config.learner.unroll_length, config.actors.envs)
        for _ in range(config.rollouts_per_batch)
    ]
    stager = Stager(device, torch.get_num_threads(), learner.pad_to_buckets)
    batch, frames = stager.stage(hand_ins).take(), config.steps_per_update
    stages: dict[str, float] = {}
    calls, under_way = 0, learner.begin(batch)

    def update() -> None:
        nonlocal calls, under_way
        calls += 1
        before, under_way = under_way, learner.begin(batch)  # as training does: a device always has work
        for name, value in learner.finish(before).items():
            if name.startswith("time/"):
                stages[name] = stages.get(name, 0.0) + value

    def copy() -> None:
        stager.stage(hand_ins).take()
        if device.type == "cuda":
            torch.cuda.synchronize()

    cost = per_frame(update, frames, seconds)
    wall = {name.removeprefix("time/").removesuffix("_s"): 1e6 * s / calls / frames for name, s in stages.items()}
    return {
        "frames/s": 1e6 / cost.wall_us, "cpu us/frame": cost.cpu_us, **wall,
        "copy": per_frame(copy, frames, seconds / 4).wall_us,
    }  # fmt: skip


def learners(config: Config, spaces: Spaces, device: torch.device, seconds: float) -> Iterator[Row]:
    """Updates by torso, head and precision, of the configuration's T and B."""
    for torso, precision in itertools.product(("shallow", "deep"), ("float32", "bfloat16")):
        for head in ("shared", "per_task", "mi_task", "mi_context"):
            changed = [f"agent.torso={torso}", f"agent.head={head}", f"learner.precision={precision}"]
            row = learning(build("bench", config.model_dump(), changed), spaces, device, seconds)
            yield {
                "torso": torso, "head": head, "precision": precision, "T": config.learner.unroll_length,
                "B": config.learner.batch_size, "device": device.type, **row,
            }  # fmt: skip


def alone(config: Config, actor: int, seconds: float) -> dict[str, float]:
    """CPU microseconds a frame of each part of a configuration, with one thread and that actor's games."""
    keep_freed_memory()
    torch.set_num_threads(1)
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, suite.action_repeat, CPU)
    rollout = RolloutWorker(config, suite, actor)
    try:
        rollout.start(FIRST_SEED_EPOCH)
        rollout.load(learner.weights(), 0)
        frames = config.learner.unroll_length * config.actors.envs
        whole = per_frame(rollout.unroll, frames, seconds).cpu_us
        group = columns_of_groups(config.actors, suite)[0]
        act = acting(config, suite.spaces, group.stop, config.actors.precision, 1, seconds).cpu_us
        data = rollout.unroll().data
    finally:
        rollout.close()
    batch = stack([data] * config.rollouts_per_batch)
    learn = per_frame(lambda: learner.update(batch), batch.action.numel(), seconds).cpu_us
    return {"environments": max(whole - act, 0.0), "acting": act, "learning": learn}


def alone_on_every_core(config: Config, processes: int, seconds: float) -> dict[str, float]:
    """The mean of `alone` in so many processes at once: cores that are all busy are slower than one that is."""
    actors = config.actors.number(len(make_suite(config.env).levels))
    chosen = [i * actors // processes for i in range(processes)]  # spread over those of all levels
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        found = list(pool.map(alone, [config] * processes, chosen, [seconds] * processes))
    return {name: sum(f[name] for f in found) / processes for name in found[0]}
