"""A head of your own: FiLM (Perez et al. 2018), which scales and shifts the features by functions of the task.

The shipped `film_task` is such a head too; this one shows all that it takes.

    python examples/own_head.py                               # trains three tiny tasks for 30 s, scores
    impala-mi train CONFIG agent.head=own_head:film           # from the command line, in this folder

`agent.head=own_head:film` names the `HeadSpec` below; its module must lie in the current folder, beside the
program, or in an installed package. Checkpoints, evaluation and acting work as with a built-in head.
"""

import argparse
from collections.abc import Sequence

from torch import Tensor, nn

from impala_mi import evaluate, train
from impala_mi.config import AgentConfig
from impala_mi.nn.heads import HeadSpec, TaskContext


class FilmOutput(nn.Module):
    """Output layer y = W (h * scale(z) + shift(z)) + b of the core's output h and the task's context z."""

    def __init__(self, width: int, context: int, k: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(context, width), nn.Linear(context, width)
        self.linear = nn.Linear(width, k)

    def forward(self, h: Tensor, level: Tensor | None, context: Tensor | None) -> Tensor:
        """[N, k] of h [N, H], level [N] and context [N, C]."""
        return self.linear(h * (1 + self.scale(context)) + self.shift(context))


def output(config: AgentConfig, k: int, num_levels: int) -> nn.Module:
    """Output layer of width k: one for the policy and one for the value."""
    return FilmOutput(config.core_width, config.context_width, k)


def context(config: AgentConfig, num_levels: int) -> nn.Module:
    """Context of the task ID, as in `mi_task`."""
    return TaskContext(num_levels, config.context_width)


film = HeadSpec(output, context, needs_task=True)

CONFIG = {
    "env": {"suite": "tiny", "levels": ["language", "always_left", "always_right"]},
    "agent": {"torso": "mlp", "head": "own_head:film", "core_width": 64, "context_width": 16},
    "actors": {"count": 1, "envs": 12},
    "learner": {
        "unroll_length": 20,
        "batch_size": 12,
        "optimizer": "adam",
        "epsilon": 1e-6,
        "learning_rate": 2e-3,
        "entropy_cost": 0.01,
        "reward_clipping": "none",
    },
    "train": {"max_time_s": 30.0, "log_every_s": 5.0},
}


def main(overrides: Sequence[str]) -> None:
    """Train with the head and score the agent."""
    result = train(CONFIG, overrides)
    print(f"{result.status}: {result.counters.env_frames:,} frames, {result.run}")
    for row in evaluate(result.run, episodes=20).levels:
        print(f"{row.level}: mean return {row.agent.mean:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    main(parser.parse_args().overrides)
