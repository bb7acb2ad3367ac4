"""Gymnasium environments of one step with other action spaces, registered on import: `tests.gym_envs:Match-v0`."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Match(gymnasium.Env):
    """Two digits are shown as one-hot vectors; each digit that an action repeats is worth half a point."""

    SIZES = (3, 5)
    observation_space = spaces.Box(0, 1, (8,), np.float32)
    action_space = spaces.MultiDiscrete(SIZES)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.digits = self.np_random.integers(self.SIZES)
        observation = np.zeros(8, np.float32)
        observation[[self.digits[0], 3 + self.digits[1]]] = 1
        return observation, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.zeros(8, np.float32), float((action == self.digits).mean()), True, False, {}


class Reach(gymnasium.Env):
    """Two numbers are shown; the reward is minus their mean squared distance from the action, asymmetric bounds."""

    observation_space = spaces.Box(-1, 3, (2,), np.float32)
    action_space = spaces.Box(np.array([-1.0, -1.0], np.float32), np.array([3.0, 1.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.target = self.np_random.uniform([-0.5, -0.8], [2.5, 0.8]).astype(np.float32)
        return self.target, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return np.zeros(2, np.float32), -float(((action - self.target) ** 2).mean()), True, False, {}


gymnasium.register("Match-v0", Match)
gymnasium.register("Reach-v0", Reach)


class Odd(gymnasium.Env):
    """Observations, rewards and errors that are not what the spaces say; one kind per subclass."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(3)
    length = 20

    def __init__(self, scale=1.0):
        self.scale = scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.show(), {}

    def step(self, action):
        self.time += 1
        return self.show(), self.reward(), self.time >= self.length, False, {}

    def show(self):
        return np.full(4, self.scale, np.float32)

    def reward(self):
        return 1.0


class LateNan(Odd):
    def show(self):
        return np.full(4, np.nan if self.time == 3 else 0.5, np.float32)


class FirstNan(Odd):
    def show(self):
        return np.full(4, np.nan, np.float32)


class NanReward(Odd):
    def reward(self):
        return float("nan") if self.time == 5 else 1.0


class HugeReward(Odd):
    def reward(self):
        return 1e39


class NoReward(Odd):
    def reward(self):
        return None


class Raises(Odd):
    def reward(self):
        if self.time == 7:
            raise KeyError("lost")
        return 1.0


class Short(Odd):
    def show(self):
        return np.zeros(1, np.float32)


class FloatPicture(Odd):
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def show(self):
        return np.full((8, 8, 3), 0.5)


class SignedPicture(FloatPicture):
    def show(self):
        return np.full((8, 8, 3), -300, np.int16)


class FramesFirst(Odd):
    observation_space = spaces.Box(0, 255, (4, 24, 28), np.uint8)

    def show(self):
        return np.arange(4, dtype=np.uint8)[:, None, None].repeat(24, 1).repeat(28, 2)


class FourAxes(Odd):
    observation_space = spaces.Box(-1, 1, (2, 2, 2, 2), np.float32)

    def show(self):
        return np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2) / 16


class FourAxesPicture(Odd):
    observation_space = spaces.Box(0, 255, (2, 8, 8, 3), np.uint8)


class FloatImage(Odd):
    observation_space = spaces.Box(0, 1, (8, 8, 3), np.float32)


class FirstOutside(Odd):
    def show(self):
        return np.array([0, 0, 7.5, 0], np.float32)


class LaterOutside(Odd):
    def show(self):
        return np.array([0, 1.00005, -3 * (self.time > 0), 0], np.float32)


class Unbounded(Odd):
    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)


class BrightMask(Odd):
    observation_space = spaces.Box(0, 1, (3, 24, 28), np.uint8)

    def show(self):
        return np.full((3, 24, 28), 255, np.uint8)


class ClosesBadly(Odd):
    def close(self):
        raise RuntimeError("already closed")


ODD = (
    Odd, LateNan, FirstNan, NanReward, HugeReward, NoReward, Raises, Short, FloatPicture, SignedPicture,
    FramesFirst, FourAxes, FourAxesPicture, FloatImage, FirstOutside, LaterOutside, Unbounded, BrightMask,
    ClosesBadly,
)  # fmt: skip
for _kind in ODD:
    gymnasium.register(f"{_kind.__name__}-v0", _kind)


def flattened(env):
    """Wrapper for `env.gym.wrappers`."""
    return gymnasium.wrappers.FlattenObservation(env)


def no_environment(env):
    return 3
