"""impala-mi: train one agent on many tasks with IMPALA and multiplicative interactions.

    import impala_mi

    result = impala_mi.train("cartpole", ["train.max_time_s=60"])
    agent = impala_mi.load_agent(result.run)
    state = agent.initial_state()
    action, state = agent.step(observation, state)

The names in `__all__` are the public API. They are imported on first use: `import impala_mi` alone loads nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impala_mi.analysis.acting import ActingState, TrainedAgent
    from impala_mi.analysis.evaluation import Evaluation
    from impala_mi.api import evaluate, load_agent, train
    from impala_mi.config import Config, EnvConfig
    from impala_mi.envs.base import Game, GameFault, Level, Observation, Outcome, Suite
    from impala_mi.envs.conformance import check_game
    from impala_mi.errors import TrainingError, UserError
    from impala_mi.runs.history import Run, read_run
    from impala_mi.training.trainer import Result
    from impala_mi.types import Box, Discrete, MultiDiscrete, Spaces

__version__ = "0.1.0"

__all__ = [
    "ActingState",
    "Box",
    "Config",
    "Discrete",
    "EnvConfig",
    "Evaluation",
    "Game",
    "GameFault",
    "Level",
    "MultiDiscrete",
    "Observation",
    "Outcome",
    "Result",
    "Run",
    "Spaces",
    "Suite",
    "TrainedAgent",
    "TrainingError",
    "UserError",
    "check_game",
    "evaluate",
    "load_agent",
    "read_run",
    "train",
]

_MODULES = {
    "analysis.acting": ("ActingState", "TrainedAgent"),
    "analysis.evaluation": ("Evaluation",),
    "api": ("evaluate", "load_agent", "train"),
    "config": ("Config", "EnvConfig"),
    "envs.base": ("Game", "GameFault", "Level", "Observation", "Outcome", "Suite"),
    "envs.conformance": ("check_game",),
    "errors": ("TrainingError", "UserError"),
    "runs.history": ("Run", "read_run"),
    "training.trainer": ("Result",),
    "types": ("Box", "Discrete", "MultiDiscrete", "Spaces"),
}
"""Exported names by the module that defines them."""
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
