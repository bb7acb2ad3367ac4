"""The conformance check of a suite: it plays a level at random and compares it with the contract of `envs.base`."""

from typing import Any

import numpy as np

from impala_mi.envs.base import Suite
from impala_mi.errors import UserError
from impala_mi.types import Discrete


def check_game(suite: Suite, level: str, steps: int = 200, seed: int = 1) -> None:
    """Play a level with random actions and check that it keeps the environment contract.

    Raises `UserError` that names the violation. The tests of every suite run it on every level.
    """

    def expect(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"suite {suite.name!r}, level {level!r}: {problem}")

    def check(observation: Any) -> None:
        frame, spaces = observation.frame, suite.spaces
        expect(isinstance(frame, np.ndarray), f"a frame must be a NumPy array, not {type(frame).__name__}")
        shape, dtype = tuple(frame.shape), frame.dtype.name
        expect(shape == spaces.frame_shape, f"a frame has shape {shape}, the suite says {spaces.frame_shape}")
        expect(dtype == spaces.frame_dtype, f"a frame has dtype {dtype}, the suite says {spaces.frame_dtype}")
        expect(isinstance(observation.instruction, str), "the instruction must be a str")
        expect(spaces.instructions or not observation.instruction, "an instruction, but the suite says none")

    expect(level in suite.level_names, f"no such level; there are {', '.join(suite.level_names)}")
    expect(suite.spaces.num_levels == len(suite.levels), "spaces.num_levels is not the number of levels")
    actions = suite.spaces.action_space
    if isinstance(actions, Discrete):
        expect(actions.n == len(suite.actions), "spaces.num_actions is not the number of actions")
    rng = np.random.default_rng(seed)
    game = suite.make_game(level)
    try:
        opening = game.reset(seed)
        check(opening)
        first_frame = opening.frame.copy()
        last_frame, last_copy = opening.frame, first_frame
        for _ in range(steps):
            outcome = game.step(actions.env_actions(actions.random(rng, 1))[0])
            kind = type(outcome.reward).__name__
            expect(isinstance(outcome.reward, float), f"a reward must be a float, not {kind}")
            expect(bool(np.isfinite(outcome.reward)), f"a reward of {outcome.reward}")
            expect(not (outcome.terminated and outcome.truncated), "both terminated and truncated")
            expect(np.array_equal(last_frame, last_copy), "a frame was overwritten by the next step; return a copy")
            ended = outcome.terminated or outcome.truncated
            if outcome.observation is None:
                expect(ended, "no observation in the middle of an episode")
                last_frame = last_copy
            else:
                check(outcome.observation)
                last_frame, last_copy = outcome.observation.frame, outcome.observation.frame.copy()
            if ended:
                check(game.reset(seed + 1))
        repeated = game.reset(seed)
        expect(np.array_equal(repeated.frame, first_frame), "the same seed gave another first frame")
        expect(repeated.instruction == opening.instruction, "the same seed gave another instruction")
    finally:
        game.close()
