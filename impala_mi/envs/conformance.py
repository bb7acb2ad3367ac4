"""The conformance check of a suite: it plays a level at random and compares it with the contract of `envs.base`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from impala_mi.envs.base import MakeBatch, Observation, Suite
from impala_mi.envs.outcome_checks import FrameBounds
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
        bounds = getattr(game, "bounds", None)
        if bounds is not None:
            try:
                FrameBounds(*bounds).check(frame)
            except ValueError as e:
                expect(False, str(e))

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
    finally:
        game.close()
    _check_seed(suite, level, seed, opening._replace(frame=first_frame), expect)
    if suite.make_batch is not None:
        _check_batch(suite, suite.make_batch, level, steps, seed, expect)


def _check_seed(
    suite: Suite, level: str, seed: int, opening: Observation, expect: Callable[[bool, str], None]
) -> None:
    """Start another game: its first episode begins like that of the first game.

    An engine's later episodes may differ from its first with the same seed, as those of DeepMind Lab do.
    """
    game = suite.make_game(level)
    try:
        repeated = game.reset(seed)
    finally:
        game.close()
    expect(np.array_equal(repeated.frame, opening.frame), "the same seed gave another first frame")
    expect(repeated.instruction == opening.instruction, "the same seed gave another instruction")


def _check_batch(
    suite: Suite, make: MakeBatch, level: str, steps: int, seed: int, expect: Callable[[bool, str], None]
) -> None:
    """Play three games of a batch: equal seeds play alike, resting games rest, one game plays as alone."""
    actions, rng = suite.spaces.action_space, np.random.default_rng(seed)
    seeds, everyone = [seed, seed, seed + 1], np.arange(3)
    batch, alone = make(level, 3), suite.make_game(level)
    try:
        batch.begin_reset(everyone, seeds)
        opening = batch.finish()
        words, shape = opening.instructions, (3, *suite.spaces.frame_shape)
        expect(opening.frame.shape == shape, f"frames of a batch have shape {opening.frame.shape}, not {shape}")
        expect(words is None or len(words) == 3, "a reset of a batch has another number of instructions")
        expect(np.array_equal(opening.frame[0], alone.reset(seed).frame), "a game of a batch starts unlike a game")
        first_episode = True
        for t in range(steps):
            # The third game rests at odd times: that must not touch the other two.
            games = everyone if t % 2 == 0 else everyone[:2]
            action = actions.env_actions(actions.random(rng, 1))[0]
            batch.begin_step(games, [action] * len(games))
            frame, reward, terminated, truncated, _ = (_copied(x) for x in batch.finish())
            expect(not (terminated & truncated).any(), "both terminated and truncated in a batch")
            ended = terminated | truncated
            alike = all(np.array_equal(x[0], x[1]) for x in (frame, reward, terminated, truncated))
            expect(alike, "games of a batch with equal seeds and actions differ")
            if first_episode:
                outcome = alone.step(action)
                last = outcome.observation
                same = float(reward[0]) == outcome.reward and (last is None or np.array_equal(last.frame, frame[0]))
                expect(same, "a game of a batch goes on unlike a game alone")
            first_episode &= not ended[0]
            if ended.any():
                batch.begin_reset(games[ended], None)
                batch.finish()
        batch.begin_reset(everyone[1:2], [seed])
        expect(np.array_equal(batch.finish().frame[0], alone.reset(seed).frame), "a batch forgets its seeds")
    finally:
        batch.close()
        alone.close()


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
