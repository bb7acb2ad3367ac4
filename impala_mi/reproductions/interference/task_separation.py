"""How well representations tell the tasks apart as an episode goes on (figure 4(a) as numbers)."""

from dataclasses import asdict
from typing import Any

from impala_mi.analysis.clusters import level_separation
from impala_mi.analysis.recording import record
from impala_mi.envs.base import Suite
from impala_mi.nn.agent import Agent

EPISODES = 16
"""Episodes of each task that are played."""
STEPS_PER_TASK = 128
"""Steps of each task that are kept, spread over the octaves of time."""
KINDS = ("core", "context", "policy")
"""Vectors that are compared: the core's output, the context and the generated weights of the policy."""


def separation_by_step(agent: Agent, suite: Suite, seed: int) -> list[dict[str, Any]]:
    """Separation of the tasks by kind of vector and octave of agent steps, of newly played episodes.

    Each entry has the kind and the fields of `LevelSeparation`.
    """
    training = agent.training
    recording = record(agent.eval(), suite, EPISODES, STEPS_PER_TASK, seed)
    agent.train(training)
    return [
        {"kind": kind} | asdict(separation)
        for kind in KINDS
        if kind in recording.vectors
        for separation in level_separation(recording, kind, seed)
    ]
