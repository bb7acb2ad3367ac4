"""The conformance check of a suite: every level is played at random and held to the contract of `envs.base`."""

from typing import Any

import numpy as np

from impala_mi.envs.base import Suite
from impala_mi.errors import UserError


def check_game(suite: Suite, level: str, steps: int = 200, seed: int = 1) -> None:
    """The conformance check: play a level at random and hold it to the contract.

    Raises `UserError` that says what is wrong. Every suite's tests run it on every level.
    """

    def expect(good: bool, what: str) -> None:
        if not good:
            raise UserError(f"suite {suite.name!r}, level {level!r}: {what}")

    def check(observation: Any) -> None:
        frame, spaces = observation.frame, suite.spaces
        expect(isinstance(frame, np.ndarray), f"a frame must be a NumPy array, not {type(frame).__name__}")
        shape, dtype = tuple(frame.shape), frame.dtype.name
        expect(shape == spaces.frame_shape, f"frame of shape {shape}, the suite says {spaces.frame_shape}")
        expect(dtype == spaces.frame_dtype, f"frame of dtype {dtype}, the suite says {spaces.frame_dtype}")
        expect(isinstance(observation.instruction, str), "the instruction must be a str")
        expect(spaces.instructions or not observation.instruction, "an instruction, but the suite says none")

    expect(level in suite.level_names, f"no such level; there are {', '.join(suite.level_names)}")
    expect(suite.spaces.num_levels == len(suite.levels), "spaces.num_levels is not the number of levels")
    expect(suite.spaces.num_actions == len(suite.actions), "spaces.num_actions is not the number of actions")
    rng = np.random.default_rng(seed)
    game = suite.make_game(level)
    try:
        opening = game.reset(seed)
        check(opening)
        kept = opening.frame.copy()
        shown, ended = opening.frame, False
        for _ in range(steps):
            outcome = game.step(int(rng.integers(suite.spaces.num_actions)))
            expect(
                isinstance(outcome.reward, float), f"a reward must be a float, not {type(outcome.reward).__name__}"
            )
            expect(bool(np.isfinite(outcome.reward)), f"a reward of {outcome.reward}")
            expect(not (outcome.terminated and outcome.truncated), "both terminated and truncated")
            expect(np.array_equal(shown, kept), "a frame was overwritten by the next step; return a copy")
            ended = outcome.terminated or outcome.truncated
            if outcome.observation is None:
                expect(ended, "no observation in the middle of an episode")
                shown, kept = kept, kept
            else:
                check(outcome.observation)
                shown, kept = outcome.observation.frame, outcome.observation.frame.copy()
            if ended:
                check(game.reset(seed + 1))
        again = game.reset(seed)
        expect(np.array_equal(again.frame, opening.frame), "the same seed gave another first frame")
        expect(again.instruction == opening.instruction, "the same seed gave another instruction")
    finally:
        game.close()
