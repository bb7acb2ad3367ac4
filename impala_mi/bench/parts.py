"""Cost of the parts of training, each measured alone: environments, acting, learning."""

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Self

import numpy as np
import torch
from pydantic import model_validator

from impala_mi.actors.rollout import FIRST_SEED_EPOCH, RolloutWorker, columns_of_groups
from impala_mi.bench.measure import Cost, per_frame
from impala_mi.bench.table import Row
from impala_mi.config import Config, build
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.envs.vector import VectorEnv
from impala_mi.host.threads import keep_freed_memory
from impala_mi.learner.batching import stack
from impala_mi.learner.transfer import Stager
from impala_mi.learner.update import Learner
from impala_mi.nn.agent import Agent, meta_agent
from impala_mi.nn.precision import choose_dtype, compute_with
from impala_mi.types import AgentInput, Spaces, Transitions, leaves, transitions_buffer


class GamesConfig(Config):
    """Configuration of which only the games are used: batches need not suit the numbers of environments."""

    @model_validator(mode="after")
    def _batches(self) -> Self:
        return self


CPU = torch.device("cpu")
BATCHES = (1, 16, 32, 64)
EPISODE_STEPS = 300
"""Mean length of the episodes in random unrolls."""


def random_unrolls(spaces: Spaces, config: Config, steps: int, width: int) -> Transitions:
    """Unrolls of noise, `steps` steps of `width` environments, with realistic episode starts."""
    rng = np.random.default_rng(0)
    agent = config.agent.model_copy(update={"torso": "mlp"})  # which suits all frames
    state = meta_agent(agent, spaces).initial_state(width)
    data = transitions_buffer(spaces, steps, width, config.agent.instruction_tokens, state)
    inputs = data.inputs
    if spaces.frame_dtype == "uint8":
        inputs.frame[:] = rng.integers(0, 256, inputs.frame.shape, dtype=np.uint8)
    else:
        inputs.frame[:] = rng.random(inputs.frame.shape, dtype=np.float32)
    if spaces.instructions:
        inputs.tokens[:, :, :4] = rng.integers(0, 100, (1, width, 4))
    inputs.level[:] = np.arange(width) % spaces.num_levels
    inputs.first[:] = rng.random(inputs.first.shape) < 1 / EPISODE_STEPS
    data.action[:] = spaces.action_space.random(rng, steps * width).reshape(data.action.shape)
    data.reward[:] = rng.random(data.reward.shape)
    return data


def num_bytes(unrolls: Transitions) -> int:
    """Size of the arrays of unrolls."""
    return sum(array.nbytes for array in leaves(unrolls))


def environment_rows(config: Config, suite: Suite, seconds: float) -> Iterator[Row]:
    """Cost of a step with random actions, by level.

    One environment plays, or as many as an actor has of a level if games come in batches.
    """
    width = 1 if suite.make_batch is None else -(-config.actors.envs // len(suite.levels))
    for k, level in enumerate(suite.levels):
        levels = [k] * width
        seeds = suite.assign_seeds([config.seed], levels)
        vector = VectorEnv(suite, levels, seeds, config.agent.instruction_tokens)
        try:
            data = transitions_buffer(suite.spaces, 1, width, config.agent.instruction_tokens)
            out = AgentInput(*(a[0] for a in data.inputs))
            vector.reset(out)
            rng = np.random.default_rng(0)

            def step(vector: VectorEnv = vector, out: AgentInput = out, rng: np.random.Generator = rng) -> None:
                for _ in range(20):
                    vector.step(suite.spaces.action_space.random(rng, width), out)

            cost = per_frame(step, 20 * width, seconds)
        finally:
            vector.close()
        yield {"level": level.name, "steps/s": 1e6 / cost.wall_us, "cpu us/step": cost.cpu_us}


def acting_cost(config: Config, spaces: Spaces, batch: int, precision: str, threads: int, seconds: float) -> Cost:
    """Cost of a forward step of the network for a batch of environments, per environment."""
    compute_with(threads)
    dtype = choose_dtype(precision, config.agent.torso, CPU)  # type: ignore[arg-type]
    agent = Agent(config.agent, spaces).eval().act_in(dtype)
    data = random_unrolls(spaces, config, 1, batch)
    inputs, noise = AgentInput(*(a[0] for a in data.inputs)), torch.Generator()
    state = [agent.initial_state(batch)]

    def act() -> None:
        state[0] = agent.act(inputs, state[0], noise).state

    return per_frame(act, batch, seconds)


def inference_rows(config: Config, spaces: Spaces, threads: Sequence[int], seconds: float) -> Iterator[Row]:
    """Cost of acting, by batch, precision and threads."""
    for precision, count, batch in itertools.product(("float32", "bfloat16"), threads, BATCHES):
        cost = acting_cost(config, spaces, batch, precision, count, seconds)
        yield {
            "torso": config.agent.torso, "head": config.agent.head, "precision": precision, "threads": count,
            "batch": batch, "frames/s": 1e6 / cost.wall_us, "cpu us/frame": cost.cpu_us,
        }  # fmt: skip


def update_row(config: Config, spaces: Spaces, device: torch.device, seconds: float) -> Row:
    """Cost of an update from a batch of noise, and the wall time of its stages in microseconds per frame."""
    keep_freed_memory()
    learner = Learner(config, spaces, 1, device, threads=torch.get_num_threads())
    rollouts = [
        random_unrolls(spaces, config, config.learner.unroll_length, config.actors.envs)
        for _ in range(config.rollouts_per_batch)
    ]
    stager = Stager(device, torch.get_num_threads(), learner.pad_to_buckets)
    batch, frames = stager.stage(rollouts).take(), config.steps_per_update
    stages = Counter[str]()
    calls, in_flight = 0, learner.begin(batch)

    def update() -> None:
        nonlocal calls, in_flight
        calls += 1
        pending, in_flight = in_flight, learner.begin(batch)  # as in training, the device always has work
        stages.update({k: v for k, v in learner.finish(pending).items() if k.startswith("time/")})

    def copy() -> None:
        stager.stage(rollouts).take()
        if device.type == "cuda":
            torch.cuda.synchronize()

    cost = per_frame(update, frames, seconds)
    wall = {name.removeprefix("time/").removesuffix("_s"): 1e6 * s / calls / frames for name, s in stages.items()}
    return {
        "frames/s": 1e6 / cost.wall_us, "cpu us/frame": cost.cpu_us, **wall,
        "copy": per_frame(copy, frames, seconds / 4).wall_us,
    }  # fmt: skip


def update_rows(config: Config, spaces: Spaces, device: torch.device, seconds: float) -> Iterator[Row]:
    """Cost of updates by torso, head and precision, with the T and B of the configuration."""
    for torso, precision in itertools.product(("shallow", "deep"), ("float32", "bfloat16")):
        for head in ("shared", "per_task", "mi_task", "mi_context"):
            overrides = [f"agent.torso={torso}", f"agent.head={head}", f"learner.precision={precision}"]
            row = update_row(build("bench", config.model_dump(), overrides), spaces, device, seconds)
            yield {
                "torso": torso, "head": head, "precision": precision, "T": config.learner.unroll_length,
                "B": config.learner.batch_size, "device": device.type, **row,
            }  # fmt: skip


def cost_of_parts(config: Config, actor: int, seconds: float) -> dict[str, float]:
    """CPU microseconds per frame of each part of training, with one thread and the games of one actor."""
    keep_freed_memory()
    compute_with(1)
    suite = make_suite(config.env)
    learner = Learner(config, suite.spaces, suite.action_repeat, CPU)
    rollout = RolloutWorker(config, suite, actor)
    try:
        rollout.start(FIRST_SEED_EPOCH)
        rollout.load(learner.weights(), 0)
        frames = config.learner.unroll_length * config.actors.envs
        rollout_us = per_frame(rollout.collect, frames, seconds).cpu_us
        group = columns_of_groups(config.actors, suite)[0]
        acting_us = acting_cost(config, suite.spaces, group.stop, config.actors.precision, 1, seconds).cpu_us
        data = rollout.collect().data
    finally:
        rollout.close()
    batch = stack([data] * config.rollouts_per_batch)
    learning_us = per_frame(lambda: learner.update(batch), config.steps_per_update, seconds).cpu_us
    return {"environments": max(rollout_us - acting_us, 0.0), "acting": acting_us, "learning": learning_us}


def cost_of_parts_on_all_cores(config: Config, processes: int, seconds: float) -> dict[str, float]:
    """Mean of `cost_of_parts` over simultaneous processes: a busy core is slower if all others are busy, too."""
    actors = config.actors.number(len(make_suite(config.env).levels))
    indices = [i * actors // processes for i in range(processes)]  # spread over the levels
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        costs = list(pool.map(cost_of_parts, [config] * processes, indices, [seconds] * processes))
    return {name: sum(cost[name] for cost in costs) / processes for name in costs[0]}
