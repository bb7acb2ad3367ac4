"""Benchmark run by hand: speed of acting and updates relative to plain PyTorch, to notice lost speed.

python benchmarks/regression.py [SECONDS]     one thread, two minutes; exits with 1 if a ratio exceeds its limit

Compares CPU times that are measured in turns, so that the speed of the machine cancels out.
"""

import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impala_mi.bench.measure import per_frame
from impala_mi.bench.parts import acting_cost, update_row
from impala_mi.config import Config, build
from impala_mi.host.threads import keep_freed_memory
from impala_mi.nn.precision import compute_with
from impala_mi.types import Spaces

CPU = torch.device("cpu")
ROUNDS = 3
T, B, E = 32, 32, 16
DOOM = Spaces((72, 96, 3), "uint8", num_actions=3, num_levels=1, instructions=False)
DMLAB = Spaces((72, 96, 3), "uint8", num_actions=9, num_levels=30, instructions=True)


class Ratio(NamedTuple):
    """Two measurements of CPU microseconds per frame, and the limit of their ratio."""

    name: str
    measured: Callable[[float], float]
    baseline: Callable[[float], float]
    limit: float


class Plain(nn.Module):
    """The shallow agent with one head in plain PyTorch."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten()
        )
        self.actions, features = actions, self.conv(torch.zeros(1, 3, 72, 96)).shape[1]
        self.linear, self.lstm = nn.Linear(features, 256), nn.LSTM(256 + actions + 1, 256)
        self.policy, self.value = nn.Linear(256, actions), nn.Linear(256, 1)

    def forward(
        self, frame: Tensor, action: Tensor, reward: Tensor, first: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Logits [T, B, A] and values [T, B] for inputs [T, B, ...], and the LSTM state [1, B, H] after them."""
        image = frame.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        features = F.relu(self.linear(self.conv(image))).unflatten(0, frame.shape[:2])
        x = torch.cat([features, F.one_hot(action, self.actions).float(), reward.unsqueeze(-1)], -1)
        outputs = []
        for t in range(len(x)):
            keep = 1 - first[t].float().view(1, -1, 1)
            output, state = self.lstm(x[t : t + 1], (state[0] * keep, state[1] * keep))
            outputs.append(output)
        core = torch.cat(outputs)
        return self.policy(core), self.value(core).squeeze(-1), state


def plain_inputs(steps: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames, actions, rewards and episode starts, [steps, width, ...] each."""
    frames = torch.randint(0, 256, (steps, width, 72, 96, 3), dtype=torch.uint8)
    return (
        frames, torch.randint(0, 3, (steps, width)), torch.rand(steps, width), torch.rand(steps, width) < 1 / 300
    )  # fmt: skip


def plain_acting(seconds: float) -> float:
    """CPU microseconds per frame."""
    compute_with(1)
    net, inputs = Plain(3), plain_inputs(1, E)
    state = [(torch.zeros(1, E, 256), torch.zeros(1, E, 256))]

    @torch.inference_mode()
    def act() -> None:
        logits, _, state[0] = net(*inputs, state[0])
        torch.multinomial(F.softmax(logits[0], -1), 1)

    return per_frame(act, E, seconds).cpu_us


def plain_learning(seconds: float) -> float:
    """CPU microseconds per frame."""
    compute_with(1)
    net = Plain(3)
    optimizer = torch.optim.RMSprop(net.parameters(), lr=3e-4, eps=0.1)
    inputs, state = plain_inputs(T + 1, B), (torch.zeros(1, B, 256), torch.zeros(1, B, 256))
    actions, behaviour = torch.randint(0, 3, (T, B)), torch.zeros(T, B, 3)
    rewards, discounts = torch.rand(T, B), torch.full((T, B), 0.99)

    def update() -> None:
        logits, values, _ = net(*inputs, state)
        log_policy = F.log_softmax(logits[:-1], -1)
        log_prob = log_policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            behaviour_log_prob = F.log_softmax(behaviour, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
            rho = (log_prob - behaviour_log_prob).exp().clamp(max=1)
            delta = rho * (rewards + discounts * values[1:] - values[:-1])
            correction, corrections = torch.zeros(B), list[Tensor]()
            for t in reversed(range(T)):
                correction = delta[t] + discounts[t] * rho[t] * correction
                corrections.insert(0, correction)
            targets = torch.stack(corrections) + values[:-1]
            next_targets = torch.cat([targets[1:], values[-1:]])
            advantage = rho * (rewards + discounts * next_targets - values[:-1])
        entropy = -(log_policy.exp() * log_policy).sum()
        loss = -(log_prob * advantage).sum() + 0.25 * (targets - values[:-1]).square().sum() - 0.003 * entropy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return per_frame(update, T * B, seconds).cpu_us


def config(*overrides: str) -> Config:
    """The default configuration with the T and B of this benchmark."""
    return build("regression", {}, [f"learner.unroll_length={T}", f"learner.batch_size={B}", *overrides])


def agent_acting(precision: str) -> Callable[[float], float]:
    """Measures acting with the shared head, in CPU microseconds per frame."""
    return lambda seconds: acting_cost(config("agent.head=shared"), DOOM, E, precision, 1, seconds).cpu_us


def agent_update(spaces: Spaces, *overrides: str) -> Callable[[float], float]:
    """Measures updates, in CPU microseconds per frame."""

    def measure(seconds: float) -> float:
        compute_with(1)
        return float(update_row(config(*overrides), spaces, CPU, seconds)["cpu us/frame"])

    return measure


SHARED_HEAD = agent_update(DMLAB, "agent.head=shared")
RATIOS = [
    Ratio("acting, float32 / plain", agent_acting("float32"), plain_acting, 1.15),
    Ratio("acting, auto / plain", agent_acting("auto"), plain_acting, 0.75),
    Ratio("update, float32 / plain", agent_update(DOOM, "agent.head=shared", "learner.precision=float32"),
          plain_learning, 1.0),
    Ratio("update, auto / plain", agent_update(DOOM, "agent.head=shared"), plain_learning, 0.7),
    *(
        Ratio(f"update, 30 levels, {head} / shared",
              agent_update(DMLAB, f"agent.head={head}", "agent.context_width=32"), SHARED_HEAD, 1.15)
        for head in ("per_task", "mi_task", "mi_context")
    ),
]  # fmt: skip


def main() -> None:
    """Measure, print a table, and exit with 1 if a ratio exceeds its limit."""
    keep_freed_memory()
    seconds, slow = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0, []
    print(f"{'work':42} {'us/frame':>9} {'baseline':>9} {'ratio':>6} {'limit':>6}")
    for name, measured, baseline, limit in RATIOS:
        pairs = [(measured(seconds), baseline(seconds)) for _ in range(ROUNDS)]
        ratio = statistics.median(a / b for a, b in pairs)
        cost, baseline_cost = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:42} {cost:9.1f} {baseline_cost:9.1f} {ratio:6.2f} {limit:6.2f}", flush=True)
        if ratio > limit:
            slow.append(name)
    if slow:
        sys.exit(f"slower than the limit: {', '.join(slow)}")


if __name__ == "__main__":
    main()
