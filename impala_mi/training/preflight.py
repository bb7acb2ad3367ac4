"""Checks that this machine can run a configuration, made before anything starts."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.envs.suites import make_suite
from impala_mi.errors import UserError
from impala_mi.nn.agent import meta_agent
from impala_mi.runs.mirror import Mirror
from impala_mi.runs.sinks import check_sinks
from impala_mi.types import leaves, transitions_buffer

SHARED_MEMORY = Path("/dev/shm")
MIB = 2**20


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
    suite = make_suite(config.env)
    suite.check()
    check_sinks(config.logging)
    if config.run.mirror is not None:
        Mirror(config.run.mirror, Path(config.run.root))  # raises if the URL is invalid
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
    needed = runs * object_store_bytes(config, suite)  # raises if the torso does not suit the frames
    if SHARED_MEMORY.is_dir() and not os.environ.get("RAY_ADDRESS"):
        free = shutil.disk_usage(SHARED_MEMORY).free
        if free < needed:
            raise UserError(
                f"shared memory: {SHARED_MEMORY} has {free // MIB} MiB free, {needed // MIB} MiB are needed; in "
                f"Docker start with --shm-size={needed // MIB + 64}m, or lower actors.count, actors.envs or "
                "learner.unroll_length" + (", or pbt.concurrent" if runs > 1 else "")
            )
    return suite


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


def object_store_bytes(config: Config, suite: Suite) -> int:
    """Size of the object store: every rollout that can exist at once, weights of several versions, and slack."""
    agent, learner = meta_agent(config.agent, suite.spaces), config.learner
    envs = config.actors.envs
    buffer = transitions_buffer(
        suite.spaces, learner.unroll_length, envs, config.agent.instruction_tokens, agent.initial_state(envs)
    )
    rollout = sum(array.nbytes for array in leaves(buffer))
    waiting = 3 * config.rollouts_per_batch + 2 * config.actors.number(len(suite.levels))
    return max(128 * MIB, int(1.5 * waiting * rollout) + 8 * 4 * agent.num_parameters)
