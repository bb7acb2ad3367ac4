"""Checks that this machine can run a configuration, made before anything starts."""

import importlib.metadata
import os
import re
import resource
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.host.cgroups import memory_bytes
from impala_mi.host.threads import cores
from impala_mi.nn.agent import Agent, meta_agent
from impala_mi.runs.mirror import check_mirror
from impala_mi.runs.sinks import check_sinks
from impala_mi.training.shipped_code import files_to_ship
from impala_mi.types import leaves, transitions_buffer

SHARED_MEMORY = Path("/dev/shm")
MIB, GIB = 2**20, 2**30
MIN_RAY = (2, 52)
"""Oldest version of Ray: the first with token authentication."""
LEARNER_COPIES = 6
"""Copies of the weights in a rank: weights, gradients twice, two slots of the optimiser, and what it publishes."""
OTHER_COPIES = 2
"""Copies of the weights in an actor or an inference worker, and in the driver."""
BASE_FILES = 100
"""Files that the busiest process of a run holds open whatever runs: 58 in Ray's raylet."""
FILES_PER_PROCESS = 5
"""Files that each process of a run adds: 3 in the raylet, 2 in Ray's GCS."""
FILES_PER_GAME = 3
"""Files that each game in a process of its own adds to its actor: a socket, a pipe and the memory of frames."""
BATCH_COPIES = 3
"""Batches that a run holds at once: one learnt from, one staged, one waiting."""


class Processors(NamedTuple):
    """Processes of a run, and the CPUs and GPUs that it asks a cluster for."""

    actors: int
    workers: int
    """Inference workers; 0 if inference is local."""
    cpus: float
    gpus: float


def processors(config: Config, levels: int) -> Processors:
    """Processes and resources of one run with a number of levels."""
    actors, learner, gpus = config.actors.number(levels), config.learner, float(config.learner.num_gpus)
    workers = config.inference.workers if config.actors.inference == "central" else 0
    cpus = actors * config.actors.num_cpus + workers + learner.size * learner.num_cpus
    return Processors(actors, workers, cpus, gpus + workers * config.inference.num_gpus)


def check(config: Config, runs: int = 1) -> Suite:
    """Make the suite, and check that this machine can run a number of runs of the configuration at a time.

    Raises `UserError` if it cannot.
    """
    check_ray_version()
    suite = make_suite(config.env)
    suite.check()
    check_sinks(config.logging)
    files_to_ship(config)  # raises if they are too many for the nodes of a cluster
    actors, levels = config.actors, len(suite.levels)
    environments = actors.number(levels) * actors.envs
    if environments < levels:
        raise UserError(
            f"{levels} levels but only actors.count={actors.number(levels)} x actors.envs={actors.envs} = "
            f"{environments} environments: each level needs one"
        )
    if actors.min is not None and actors.min > actors.number(levels):
        raise UserError(f"actors.min={actors.min}: more than the {actors.number(levels)} actors of the run")
    if actors.balance == "frames" and actors.per_level is None and actors.envs % levels:
        raise UserError(
            f"actors.balance=frames needs actors.per_level, or actors.envs a multiple of the {levels} levels, not "
            f"{actors.envs}"
        )
    if actors.inference == "central" and config.inference.workers > actors.number(levels):
        raise UserError(
            f"inference.workers={config.inference.workers}: more than the {actors.number(levels)} actors that they "
            "act for"
        )
    _check_gpus(config, runs)
    _check_threads(config)
    _check_open_files(config, levels, runs)
    _check_memory(config, suite, runs)
    needed = runs * object_store_bytes(config, suite)  # raises if the torso does not suit the frames
    if SHARED_MEMORY.is_dir() and not os.environ.get("RAY_ADDRESS"):
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < needed:
            raise UserError(
                f"shared memory: {SHARED_MEMORY} has {free // MIB} MiB free, {needed // MIB} MiB are needed; in "
                f"Docker start with --shm-size={needed // MIB + 64}m, or lower actors.count, actors.envs or "
                "learner.unroll_length" + (", or pbt.concurrent" if runs > 1 else "")
            )
    if config.run.mirror is not None:
        check_mirror(config.run.mirror)
    return suite


def check_ray_version() -> None:
    """Raise `UserError` if the installed Ray is older than `MIN_RAY`."""
    version = importlib.metadata.version("ray")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < MIN_RAY:
        oldest = ".".join(map(str, MIN_RAY))
        raise UserError(
            f"Ray {version} is installed; {oldest} is the oldest that can refuse other users, by a token: "
            f"pip install 'ray>={oldest}'"
        )


def _check_threads(config: Config) -> None:
    """Raise `UserError` if a process would have more threads than this machine has cores."""
    if os.environ.get("RAY_ADDRESS"):  # other machines may have more
        return
    keys = {
        "learner.num_threads": config.learner.num_threads,
        "inference.num_threads": config.inference.num_threads,
    }
    for key, threads in keys.items():
        if threads is not None and threads > cores():
            raise UserError(f"{key}={threads}: more than the {cores()} cores that this process may use")


def _check_open_files(config: Config, levels: int, runs: int) -> None:
    """Raise the limit of open files to what the run needs; raise `UserError` if the hard limit is lower."""
    count = processors(config, levels)
    processes = 0 if os.environ.get("RAY_ADDRESS") else runs * (count.actors + count.workers + config.learner.size)
    needed = BASE_FILES + FILES_PER_PROCESS * processes + FILES_PER_GAME * config.actors.envs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard < needed and hard != resource.RLIM_INFINITY:
        raise UserError(
            f"open files: ulimit -Hn is {hard}, {needed} are needed; raise it (in Docker: --ulimit "
            f"nofile={max(4096, needed)}), or lower actors.count or actors.envs"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _check_memory(config: Config, suite: Suite, runs: int) -> None:
    """Raise `UserError` if the agents and batches of a number of runs do not fit into memory."""
    settings, learner = config.agent, config.learner
    agent = _meta_agent(config, suite)
    weights = 4 * agent.num_parameters
    count = processors(config, len(suite.levels))
    ranks = 0 if learner.num_gpus else learner.size
    copies = OTHER_COPIES * (1 + (count.workers or count.actors)) + LEARNER_COPIES * ranks
    batch = config.rollouts_per_batch * rollout_bytes(config, suite, agent)
    if os.environ.get("RAY_ADDRESS"):  # processes share the memory of several machines
        runs, copies = 1, LEARNER_COPIES
    memory = memory_bytes()
    if runs * (weights * copies + batch * BATCH_COPIES) <= memory:
        return
    parts = {
        f"weights of {_size(weights)} (agent.core_width={settings.core_width}), {copies} copies": weights * copies,
        f"batches of {_size(batch)} (learner.unroll_length={learner.unroll_length}, "
        f"learner.batch_size={learner.batch_size}), {BATCH_COPIES} at a time": batch * BATCH_COPIES,
    }
    largest = max(parts, key=parts.__getitem__)
    raise UserError(
        f"memory: the run needs {_size(runs * sum(parts.values()))}, this machine has {_size(memory)}; "
        f"most are {largest}" + (f", in {runs} runs at a time" if runs > 1 else "")
    )


def _meta_agent(config: Config, suite: Suite) -> Agent:
    """`meta_agent`, or `UserError` if PyTorch cannot even count the size of its weights."""
    try:
        return meta_agent(config.agent, suite.spaces)
    except RuntimeError as e:
        if "overflow" not in str(e):
            raise
        widths = f"agent.core_width={config.agent.core_width}, agent.context_width={config.agent.context_width}"
        raise UserError(
            f"memory: weights of {widths} need more than {_size(2**63)}, this machine has {_size(memory_bytes())}"
        ) from None


def _size(number: float) -> str:
    """Bytes as GiB, or MiB if they are fewer."""
    return f"{number / GIB:,.1f} GiB" if number >= GIB else f"{number / MIB:,.0f} MiB"


def _check_gpus(config: Config, runs: int) -> None:
    """Raise `UserError` if this machine has too few GPUs; with a cluster it need not have any."""
    required = {"learner.num_gpus": float(config.learner.num_gpus)}
    if config.actors.inference == "central":
        required["inference.workers x inference.num_gpus"] = config.inference.workers * config.inference.num_gpus
    available = torch.cuda.device_count()
    if os.environ.get("RAY_ADDRESS") or runs * sum(required.values()) <= available:
        return
    asked = " and ".join(f"{key}={number:g}" for key, number in required.items() if number)
    asked += f" in {runs} runs at a time" if runs > 1 else ""
    raise UserError(
        f"{asked}, but this PyTorch ({torch.__version__}) sees {available or 'no'} GPU{'s' * (available > 1)}; set "
        "learner.num_gpus=0 to learn on the CPU"
    )


def rollout_bytes(config: Config, suite: Suite, agent: Agent) -> int:
    """Size of the arrays of one actor's rollout, without allocating them."""

    def size(steps: int) -> int:
        # Every array has an axis of the environments, so one environment tells the size of all.
        buffer = transitions_buffer(suite.spaces, steps, 1, 0, agent.initial_state(1))
        return sum(array.nbytes for array in leaves(buffer))

    length, first, second = config.learner.unroll_length, size(1), size(2)
    tokens = 4 * config.agent.instruction_tokens * (length + 1) if suite.spaces.instructions else 0
    return config.actors.envs * (first + (length - 1) * (second - first) + tokens)


def object_store_bytes(config: Config, suite: Suite) -> int:
    """Size of the object store: every rollout that can exist at once, weights of several versions, and slack."""
    agent = _meta_agent(config, suite)
    waiting = 3 * config.rollouts_per_batch + 2 * config.actors.number(len(suite.levels))
    return max(128 * MIB, int(1.5 * waiting * rollout_bytes(config, suite, agent)) + 8 * 4 * agent.num_parameters)
