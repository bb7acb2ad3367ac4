"""Check that a checkpoint has all that a run needs to continue, before anything starts."""

from dataclasses import fields
from typing import Any

import torch

from impala_mi.config import Config
from impala_mi.envs.base import Suite
from impala_mi.learner.optim import make_optimizer
from impala_mi.learner.update import Counters
from impala_mi.nn.agent import Agent
from impala_mi.runs.checkpoint import Checkpoint, check_fits
from impala_mi.runs.checkpoint_checks import check_tensor, is_count, is_finite
from impala_mi.runs.metrics import LevelCounts, LevelScores


def check_resumable(checkpoint: Checkpoint, config: Config, suite: Suite, agent: Agent) -> None:
    """Check the weights, the optimiser's state, the counters, the random state and the statistics.

    Args:
        checkpoint: what was read.
        config: configuration that continues the run; its optimiser is the run's.
        suite: levels of the run.
        agent: the agent, which may lie on the `meta` device.

    Raises:
        UserError: the weights are of another architecture.
        ValueError: something is missing or damaged. Buffers and what games count may be any numbers.
    """
    check_fits(checkpoint, agent)
    if "updates" not in checkpoint.meta:
        raise ValueError("no number of updates in meta.json")
    learner = checkpoint.learner
    _check_optimizer(learner.get("optimizer"), config, agent)
    _check_counters(learner.get("counters"))
    torch.Generator().set_state(learner["torch_rng"])
    _check_run(checkpoint.run, config, suite)


def _check_optimizer(state: Any, config: Config, agent: Agent) -> None:
    if not isinstance(state, dict) or not isinstance(state.get("slots"), dict) or not is_count(state.get("steps")):
        raise ValueError("no state of the optimiser")
    optimizer = make_optimizer(config.learner, agent.parameters())
    for name, parts in state["slots"].items():
        if name not in optimizer.slots:  # of a setting that is off now
            continue
        for number, (part, parameter) in enumerate(zip(parts, optimizer.params, strict=True)):
            label = f"optimiser's {name} {number}"
            if not isinstance(part, torch.Tensor) or (part.shape, part.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(f"{label} is not {list(parameter.shape)} {parameter.dtype}")
            check_tensor(label, part)


def _check_counters(counters: Any) -> None:
    known, needed = {field.name for field in fields(Counters)}, {"updates", "version", "agent_steps", "env_frames"}
    if not isinstance(counters, dict) or not needed <= set(counters) <= known:
        raise ValueError("no counters of the learner")
    for name, value in counters.items():
        if not (is_count(value) or (name == "schedule_ahead" and isinstance(value, int))):
            raise ValueError(f"counter {name}={value!r}")


def _check_run(run: dict[str, Any], config: Config, suite: Suite) -> None:
    for key, valid in (("time_s", is_finite), ("discarded", is_count), ("starts", is_count)):
        if not valid(run.get(key)) or run[key] < 0:
            raise ValueError(f"{key}={run.get(key)!r} among the statistics")
    scores = run.get("scores")
    levels = len(suite.levels)
    if not isinstance(scores, dict):
        raise ValueError("no returns among the statistics")
    windows = [window for key in ("returns", "lengths") for window in scores[key]]
    numbers = [number for window in windows for number in window]
    if len(windows) != 2 * levels or len(scores["episodes"]) != levels or not all(map(is_finite, numbers)):
        raise ValueError("the returns among the statistics are not those of the levels")
    if not all(map(is_count, scores["episodes"])):
        raise ValueError("the numbers of episodes among the statistics")
    LevelScores(suite.levels, config.train.score_episodes).load_state(scores)
    counts = run.get("counts", [{}] * levels)  # older checkpoints have none
    if len(counts) != levels or not all(is_finite(number) for level in counts for number in level.values()):
        raise ValueError("the counts among the statistics are not those of the levels")
    LevelCounts(suite.levels).load_state(counts)
    if not isinstance(run.get("member", {}), dict):
        raise ValueError("the state as a member of a population")
