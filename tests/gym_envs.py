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
